"use strict";

// The script of the pages: times in the reader's time zone, publishing and
// replaying without leaving the page, and the list's live feed. Reading and
// publishing work without it.

const $ = (id) => document.getElementById(id);
for (const e of document.querySelectorAll(".needs-script")) e.hidden = false;

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
const date = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

function localize(root) {
  const today = new Date().toDateString();
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    time.textContent = (at.toDateString() === today ? "" : date.format(at) + ", ") + clock.format(at);
    time.title = exact.format(at) + "\n" + time.dateTime;
  }
}
localize(document);

// post sends body and returns the ID of what was published, or throws an error
// whose message is for the reader.
async function post(url, body) {
  let response;
  try {
    response = await fetch(url, { method: "POST", body });
  } catch {
    throw new Error("The console cannot be reached. Check the connection and try again.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(`Refused (${response.status}): ${answer.detail || response.statusText}.`);
  return answer.messageIds.join(", ");
}

// tell runs one action at a time and writes how it went into the element.
async function tell(element, action) {
  if (element.dataset.busy) return;
  element.dataset.busy = "1";
  element.classList.remove("bad");
  element.textContent = "Publishing…";
  try {
    element.textContent = await action();
  } catch (err) {
    element.classList.add("bad");
    element.textContent = err.message;
  }
  delete element.dataset.busy;
}

const form = $("publish-form");
form?.addEventListener("submit", (event) => {
  event.preventDefault();
  tell($("publish-result"), async () =>
    `Published as message ${await post(form.action, new URLSearchParams(new FormData(form)))}.`);
});

const replay = $("replay");
if (replay) {
  const dialog = $("replay-dialog");
  replay.hidden = false;
  replay.addEventListener("click", () => {
    dialog.returnValue = "";
    dialog.showModal();
  });
  dialog.addEventListener("close", () => {
    if (dialog.returnValue !== "replay") return;
    tell($("replay-result"), async () =>
      `Published again as message ${await post(location.pathname + ":replay" + (replay.dataset.query || ""))}.`);
  });
}

const table = document.querySelector("table[data-feed]");
if (table) follow(table);

// follow keeps the list up to date. The server sends rows as the page's own
// are; the token of the last one resumes the feed after a break, without a gap
// or a repetition.
function follow(table) {
  const keep = 300; // rows; older ones are a page away
  const pace = 50; // milliseconds between changes of the page
  const rows = $("rows"), older = $("older"), pause = $("pause");
  let token = table.dataset.token;
  let source, retry, wait, timer, paused = false;
  let queue = [], flushed = 0, unannounced = 0, announcing;

  function show(state, text) {
    $("live").dataset.state = state;
    if ($("live-text").textContent !== text) $("live-text").textContent = text;
  }

  function connect() {
    const url = new URL(table.dataset.feed, location.href);
    url.searchParams.set("pageToken", token);
    source = new EventSource(url);
    source.onopen = () => {
      wait = 0;
      show("live", "Live");
    };
    source.addEventListener("row", (event) => {
      token = event.lastEventId;
      queue.push(event.data);
      if (queue.length >= keep) flush();
      else timer ??= setTimeout(flush, Math.max(0, flushed + pace - performance.now()));
    });
    source.onerror = () => {
      source.close();
      wait = Math.min((wait || 500) * 2, 10000);
      show("lost", "Connection lost, trying again…");
      retry = setTimeout(connect, wait);
    };
  }

  function flush() {
    clearTimeout(timer);
    timer = undefined;
    const n = queue.length;
    // Marking each of many would keep the browser painting.
    const mark = performance.now() - flushed > 1000;
    rows.insertAdjacentHTML("afterbegin", queue.reverse().join(""));
    queue = [];
    for (let i = 0; i < n; i++) {
      localize(rows.children[i]);
      if (mark) rows.children[i].classList.add("fresh");
    }
    // Messages come as they were committed, and pages go by when they were
    // received, which can differ a little.
    for (const row of [...rows.children].slice(0, n).reverse()) {
      let next = row.nextElementSibling;
      while (next && next.dataset.order > row.dataset.order) next = next.nextElementSibling;
      if (next !== row.nextElementSibling) rows.insertBefore(row, next);
    }
    const focused = rows.contains(document.activeElement);
    let trimmed = false;
    while (rows.children.length > keep) {
      rows.lastElementChild.remove();
      trimmed = true;
    }
    if (focused && !rows.contains(document.activeElement)) {
      rows.lastElementChild.querySelector("a").focus({ preventScroll: true });
    }
    if (trimmed) {
      const url = new URL(older.dataset.base, location.href);
      url.searchParams.set("pageToken", rows.lastElementChild.dataset.token);
      older.href = url;
      older.hidden = false;
    }
    table.hidden = false;
    $("empty").hidden = true;
    unannounced += n;
    announcing ??= setTimeout(announce, 2000);
    flushed = performance.now();
  }

  // Readers who listen hear how many came, not each of them.
  function announce() {
    announcing = undefined;
    $("news").textContent = unannounced === 1 ? "1 new message" : `${unannounced} new messages`;
    unannounced = 0;
  }

  // A background tab closes its live feed, since a browser has six connections
  // to one host. When it is shown again, the token brings what it missed.
  function restart() {
    source?.close();
    clearTimeout(retry);
    if (paused) {
      show("off", "Paused");
    } else if (!document.hidden) {
      show("off", "Connecting…");
      connect();
    }
  }

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Resume" : "Pause";
    restart();
  });
  document.addEventListener("visibilitychange", restart);
  $("live").hidden = false;
  restart();
}
