// A Pub/Sub push endpoint: prints what PUSH_SERVICE_ACCOUNT pushes, signed for
// PUSH_AUDIENCE. Needs: npm install. To try it: docs/local.md, "Run your own program".
const http = require('node:http');
const {OAuth2Client} = require('google-auth-library');

const {PORT = 3000, PUSH_AUDIENCE, PUSH_SERVICE_ACCOUNT} = process.env;
if (!PUSH_AUDIENCE || !PUSH_SERVICE_ACCOUNT) throw new Error('set PUSH_AUDIENCE and PUSH_SERVICE_ACCOUNT');
const maxBody = 15 << 20;
const google = new OAuth2Client();

async function verify(authorization = '') {
  const [, idToken] = /^Bearer (.+)$/.exec(authorization) ?? [];
  const ticket = await google.verifyIdToken({idToken, audience: PUSH_AUDIENCE});
  const {email, email_verified: verified} = ticket.getPayload();
  if (email !== PUSH_SERVICE_ACCOUNT || verified !== true) throw new Error('not a token of the push service account');
}

async function read(request) {
  let body = '';
  for await (const chunk of request.setEncoding('utf8')) if ((body += chunk).length > maxBody) throw new Error('too large');
  return JSON.parse(body);
}

http.createServer(async (request, response) => {
  try {
    await verify(request.headers.authorization);
  } catch (err) {
    console.log('refused:', err.name);
    return response.writeHead(401).end();
  }
  try {
    const {message} = await read(request);
    console.log(message.messageId, Buffer.from(message.data ?? '', 'base64').toString());
    response.writeHead(204).end();
  } catch (err) {
    response.writeHead(400).end();
  }
}).listen(PORT, '127.0.0.1');
