// Counts what the messages of an inbox say in a JSON file, each message once.
'use strict';

const fs = require('node:fs/promises');

const inbox = process.env.INBOX_URL ?? 'http://127.0.0.1:8080';
const headers = process.env.INBOX_TOKEN ? {authorization: `Bearer ${process.env.INBOX_TOKEN}`} : {};
const file = process.env.STATE ?? 'state.json';

// get returns an answer of the inbox.
async function get(path) {
  const answer = await fetch(inbox + path, {headers, signal: AbortSignal.timeout(60_000)});
  if (!answer.ok) throw new Error(`${answer.status}: ${await answer.text()}`);
  return answer;
}

// poll returns the messages after a token. It waits up to 25 seconds for the first.
async function poll(after) {
  const page = await (await get(`/messages:poll?${new URLSearchParams({after, wait: '25s', source: 'pubsub'})}`)).json();
  for (const message of page.messages) {
    message.data = Buffer.from(message.data, 'base64');
    if (message.truncated) { // a page has the first 4 KiB
      message.data = Buffer.from(await (await get(`/messages/${message.id}/data`)).arrayBuffer());
    }
  }
  return page;
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
      console.log(err.message);
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
