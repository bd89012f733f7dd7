// Counts what the messages of an inbox say in a JSON file, each message once.
'use strict';

const fs = require('node:fs/promises');

const inbox = process.env.INBOX_URL ?? 'http://127.0.0.1:8080';
const headers = process.env.INBOX_TOKEN ? {authorization: `Bearer ${process.env.INBOX_TOKEN}`} : {};
const file = process.env.STATE ?? 'state.json';

// get returns an answer of the inbox, or null for data that have expired. It ends the
// program where asking again cannot help.
async function get(path, isData) {
  const answer = await fetch(inbox + path, {headers, signal: AbortSignal.timeout(60_000)});
  if (answer.ok) return answer;
  if (isData && answer.status === 404) return null;
  const problem = `${answer.status}: ${(await answer.text()).slice(0, 1000)}`;
  if (answer.status >= 500 || answer.status === 429) throw new Error(problem);
  console.error(problem);
  process.exit(1);
}

// poll returns the messages after a token. It waits up to 25 seconds for the first.
async function poll(after) {
  const page = await (await get(`/messages:poll?${new URLSearchParams({after, wait: '25s', source: 'pubsub'})}`)).json();
  const messages = [];
  for (const message of page.messages) {
    if (message.quarantined) { // its data are a push that could not be decoded
      console.log('skipped', message.messageId, 'quarantined:', message.quarantined.reason);
      continue;
    }
    message.data = Buffer.from(message.data, 'base64');
    if (message.truncated) { // a page has the first 4 KiB
      const data = await get(`/messages/${message.id}/data`, true);
      if (!data) {
        console.log('skipped', message.messageId, 'expired');
        continue;
      }
      message.data = Buffer.from(await data.arrayBuffer());
    }
    messages.push(message);
  }
  return {messages, next: page.next};
}

// save replaces the file as a whole: the effects, and the token after them.
async function save(state) {
  const f = await fs.open(`${file}.new`, 'w');
  await f.writeFile(JSON.stringify(state));
  await f.sync();
  await f.close();
  await fs.rename(`${file}.new`, file);
}

async function main() {
  let state = {token: '', seen: {}};
  try {
    state = JSON.parse(await fs.readFile(file, 'utf8'));
  } catch (err) {
    if (err.code !== 'ENOENT') throw err; // a broken file is not a new one
  }
  for (;;) {
    let page;
    try {
      page = await poll(state.token);
    } catch (err) { // the inbox is being restarted, or the network is away
      console.log(inbox, err.message, err.cause?.message ?? '');
      await new Promise((done) => setTimeout(done, 1000));
      continue;
    }
    for (const message of page.messages) {
      const text = message.data.toString();
      state.seen[text] = (state.seen[text] ?? 0) + 1;
    }
    state.token = page.next;
    await save(state);
    for (const message of page.messages) console.log('processed', message.messageId);
  }
}

main();
