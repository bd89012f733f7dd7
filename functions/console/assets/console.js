"use strict";

// The script of the pages: times in the reader's time zone, publishing and
// replaying without leaving the page, keys, copying, finding, and the list's live
// feed. Reading, searching and publishing work without it.

const $ = (id) => document.getElementById(id);
const unhide = (root) => { for (const e of root.querySelectorAll(".needs-script")) e.hidden = false; };
unhide(document);

const clock = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });
const forms = {
  today: new Intl.DateTimeFormat(undefined, { ...clock, fractionalSecondDigits: 3 }),
  thisYear: new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", ...clock, fractionalSecondDigits: 3 }),
  older: new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric", ...clock }),
};
const zones = new Intl.DateTimeFormat("en", { timeZoneName: "short" });
const zone = (at) => zones.formatToParts(at).find((p) => p.type === "timeZoneName").value;

// localize writes times in the reader's zone. The column of a list names the zone in
// its head; every other time names its own.
function localize(root) {
  const now = new Date();
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    const form = at.toDateString() === now.toDateString() ? forms.today : at.getFullYear() === now.getFullYear() ? forms.thisYear : forms.older;
    const inHead = time.closest("td.c-time") && zone(at) === zone(now);
    time.textContent = form.format(at) + (inHead ? "" : " " + zone(at));
    time.title = exact.format(at) + "\n" + time.dateTime;
  }
  for (const e of root.querySelectorAll(".zone")) e.textContent = zone(now);
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
  if (!response.ok) throw new Error(`${response.status < 500 ? "Refused" : "Failed"} (${response.status}): ${answer.detail || response.statusText}.`);
  return answer.messageIds[0];
}

// published are the links to messages that are on their way, by message ID.
const published = new Map();

// tell runs one action at a time and writes how it went into the element: words, and
// a link to the message whose ID the action returns. It returns the link, if any.
async function tell(element, words, action) {
  if (element.dataset.busy) return;
  element.dataset.busy = "1";
  element.classList.remove("bad");
  element.textContent = "Publishing…";
  try {
    const id = await action();
    const link = document.createElement("a");
    link.href = "/?messageId=" + encodeURIComponent(id);
    link.textContent = id;
    published.set(id, link);
    element.replaceChildren(words + " ", link, ".");
    for (const row of document.querySelectorAll("#rows tr")) arrived(row);
    return link;
  } catch (err) {
    element.classList.add("bad");
    element.textContent = err.message;
  } finally {
    delete element.dataset.busy;
  }
}

// arrived leads from what was published here to the row of the message, if it is it.
function arrived(row) {
  const link = published.get(row.querySelector("td.c-id").textContent);
  if (!link) return;
  link.href = row.querySelector("td.c-data a").href;
  link.dataset.arrived = "1";
}

const form = $("publish-form");
form?.addEventListener("submit", (event) => {
  event.preventDefault();
  tell($("publish-result"), "Published as message", () => post(form.action, new URLSearchParams(new FormData(form))));
});

const replay = $("replay");
if (replay) {
  const dialog = $("replay-dialog");
  replay.hidden = false;
  replay.addEventListener("click", () => {
    dialog.returnValue = "";
    dialog.showModal();
  });
  dialog.addEventListener("close", async () => {
    if (dialog.returnValue !== "replay") return;
    const link = await tell($("replay-result"), "Published again as message", () => post(location.pathname + ":replay" + (replay.dataset.query || "")));
    if (!link) return;
    $("replays").querySelector(".hint")?.remove();
    $("replays").prepend(link.cloneNode(true));
    $("replays").firstChild.className = "replayed";
  });
}

// Keys: / searches, j and k go down and up, Enter opens what has the focus, Esc goes
// back. None of them while somebody types.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || document.querySelector("dialog[open]")) return;
  const at = document.activeElement;
  if (event.key === "Escape") {
    if (at !== document.body && at.id !== "main") at.blur();
    else if ($("back")) $("back").click();
    return;
  }
  if (at.matches("input:not([type=checkbox]), textarea, select")) return;
  const box = $("search") || $("find");
  if (event.key === "/" && box) {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "j" || event.key === "k") {
    step(event.key === "j");
  }
});

function step(down) {
  const rows = $("rows");
  if (!rows) return $(down ? "older" : "newer")?.click();
  const row = document.activeElement.closest("#rows tr") || rows.querySelector(".current");
  const next = row ? (down ? row.nextElementSibling : row.previousElementSibling) : rows.firstElementChild;
  rows.querySelector(".current")?.classList.remove("current");
  next?.querySelector("td.c-data a").focus();
}

// The row that the reader comes back to.
const table = document.querySelector("table.messages");
const current = table && $(table.dataset.current);
if (current) {
  current.classList.add("current");
  current.scrollIntoView({ block: "center" });
}

const shown = $("shown");
if (shown) {
  finding(shown, $("find"), $("found"));
  const fold = $("fold");
  fold?.addEventListener("click", () => {
    const open = fold.dataset.folded === "1";
    fold.dataset.folded = open ? "" : "1";
    fold.textContent = open ? "Fold all" : "Unfold all";
    for (const e of shown.querySelectorAll("details details")) e.open = open;
    shown.querySelector("details").open = true;
  });
}

// finding marks in the data what somebody types, and Enter goes from one to the next.
function finding(shown, box, found) {
  let ranges = [], at = -1;
  function find() {
    ranges = [];
    at = -1;
    const nodes = [], starts = [];
    let text = "";
    for (const walker = document.createTreeWalker(shown, NodeFilter.SHOW_TEXT); walker.nextNode();) {
      nodes.push(walker.currentNode);
      starts.push(text.length);
      text += walker.currentNode.data;
    }
    const fold = (s) => (s.toLowerCase().length === s.length ? s.toLowerCase() : s);
    const what = fold(box.value);
    let n = 0;
    const place = (i) => {
      while (n + 1 < starts.length && starts[n + 1] <= i) n++;
      return [nodes[n], i - starts[n]];
    };
    text = fold(text);
    for (let i = 0; what && ranges.length < 1000 && (i = text.indexOf(what, i)) >= 0; i += what.length) {
      const range = new Range();
      range.setStart(...place(i));
      range.setEnd(...place(i + what.length - 1));
      range.setEnd(range.endContainer, range.endOffset + 1);
      ranges.push(range);
    }
    mark();
  }
  function mark() {
    CSS.highlights?.set("found", new Highlight(...ranges));
    CSS.highlights?.set("at", new Highlight(...ranges.slice(at, at < 0 ? 0 : at + 1)));
    found.textContent = !box.value ? "" : !ranges.length ? "not found" : (at < 0 ? "" : at + 1 + " of ") + ranges.length + (ranges.length === 1000 ? " or more" : "");
  }
  function go(by) {
    if (!ranges.length) return;
    at = (at < 0 ? (by > 0 ? 0 : ranges.length - 1) : at + by + ranges.length) % ranges.length;
    for (let e = ranges[at].startContainer.parentElement; e !== shown; e = e.parentElement) if (e.matches("details") && !e.open) e.open = true;
    mark();
    const box = ranges[at].getBoundingClientRect(), frame = shown.getBoundingClientRect();
    if (box.top < frame.top || box.bottom > frame.bottom) shown.scrollTop += box.top - frame.top - frame.height / 2;
    if (box.left < frame.left || box.right > frame.right) shown.scrollLeft += box.left - frame.left - frame.width / 2;
  }
  box.addEventListener("input", find);
  box.addEventListener("keydown", (event) => {
    if (event.key === "Enter") go(event.shiftKey ? -1 : 1);
  });
  if (box.value) find();
}

// Copying. What a stranger sent goes to the clipboard as text, and into a command
// only in ASCII and in quotes that it cannot end.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const result = button.parentElement.querySelector(".result") || $("copied");
  result.classList.remove("bad");
  try {
    const [text, what] = await copyOf(button);
    if (!navigator.clipboard) throw new Error("The browser lets only https:// and localhost copy.");
    await navigator.clipboard.writeText(text);
    result.textContent = "Copied " + what + ".";
  } catch (err) {
    result.classList.add("bad");
    result.textContent = "Not copied: " + err.message;
  }
});

async function copyOf(button) {
  const kind = button.dataset.copy;
  if (kind === "id") return [button.dataset.text, "the message ID"];
  if (kind === "command") return [button.dataset.text, "the command"];
  const response = await fetch(location.pathname, { headers: { Accept: "application/json" } });
  if (!response.ok) throw new Error(`the message cannot be read (${response.status}).`);
  const message = await response.json();
  if (kind === "attributes") return [JSON.stringify(message.attributes, null, 2), "the attributes, as JSON"];
  if (kind === "curl") return [curlOf(message), "a command that pushes it to $URL"];
  const bytes = Uint8Array.from(atob(message.data), (c) => c.charCodeAt(0));
  try {
    return [new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes), "the data"];
  } catch {
    return [message.data, "the data, as base64: they are no text"];
  }
}

function curlOf({ data, attributes, messageId, publishTime, orderingKey, subscription, deliveryAttempt }) {
  const push = { message: { data, attributes, messageId, message_id: messageId, publishTime, publish_time: publishTime, orderingKey: orderingKey || undefined }, subscription, deliveryAttempt };
  const body = JSON.stringify(push).replace(/[^ -~]/g, (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  if (body.length > 100_000) throw new Error("it is too large for a command line. Download the data.");
  return `curl -H 'Content-Type: application/json' -d '${body.replaceAll("'", "'\\''")}' "\${URL:-http://localhost:8080/}"`;
}

if ($("renewed")) refresh(Number($("renewed").dataset.every) * 1000);

// refresh keeps a page about the delivery up to date, while it is to be seen. Parts that
// are as they were stay in place, and all of them while a reader has marked a text.
function refresh(every) {
  // nameOf tells links and buttons apart, across renewals.
  const nameOf = (e) => [e.closest("tr")?.id, e.dataset.text, e.getAttribute("href")].join(" ");
  async function look() {
    try {
      if (document.hidden || !getSelection().isCollapsed) return;
      const answer = await fetch(location.pathname, { headers: { Accept: "text/html" } });
      if (!answer.ok) throw new Error(answer.status + " " + answer.statusText);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("renewed");
      if (!page) throw new Error("it was switched off");
      localize(page);
      unhide(page);
      const focused = document.activeElement;
      replace([...$("renewed").children], [...page.children]);
      if (!focused.isConnected) [...$("renewed").querySelectorAll("a, button")].find((e) => nameOf(e) === nameOf(focused))?.focus({ preventScroll: true });
      $("old").textContent = "";
    } catch (err) {
      $("old").textContent = `This is old, the console does not answer: ${err.message}.`;
    } finally {
      setTimeout(look, every);
    }
  }
  function replace(old, fresh) {
    if (old.length !== fresh.length) return $("renewed").replaceChildren(...fresh);
    for (const [i, e] of old.entries()) {
      if (e.isEqualNode(fresh[i])) continue;
      if (e.id === "trouble") e.innerHTML = fresh[i].innerHTML; // which is then announced
      else e.replaceWith(fresh[i]);
    }
  }
  setTimeout(look, every);
}

if (table?.dataset.feed) follow(table);

// follow keeps the list up to date. The server sends rows as the page's own
// are; the token of the last one resumes the feed after a break, without a gap
// or a repetition.
function follow(table) {
  const keep = 300; // rows; older ones are a page away
  const pace = 50; // milliseconds between changes of the page
  const rows = $("rows"), older = $("older"), pause = $("pause");
  let token = table.dataset.token;
  let source, retry, wait, timer, paused = false;
  let queue = [], waiting = 0, flushed = 0, unannounced = 0, announcing;

  function show(state, text) {
    $("live").dataset.state = state;
    if ($("live-text").textContent !== text) $("live-text").textContent = text;
  }

  function showOpen() {
    if (paused) show("off", waiting ? `Paused, ${waiting} new` : "Paused");
    else show("live", "Live");
  }

  function connect() {
    const url = new URL(table.dataset.feed, location.href);
    url.searchParams.set("pageToken", token);
    source = new EventSource(url);
    source.onopen = () => {
      wait = 0;
      showOpen();
    };
    source.addEventListener("row", (event) => {
      token = event.lastEventId;
      queue.push(event.data);
      waiting++;
      if (paused) {
        if (queue.length > keep) queue.shift();
        showOpen();
      } else if (queue.length >= keep) {
        flush();
      } else {
        timer ??= setTimeout(flush, Math.max(0, flushed + pace - performance.now()));
      }
    });
    source.addEventListener("trouble", (event) => {
      const trouble = $("trouble");
      trouble.innerHTML = event.data;
      localize(trouble);
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
    if (paused || !queue.length) return;
    const n = queue.length;
    let trimmed = waiting > n;
    // Marking each of many would keep the browser painting.
    const mark = performance.now() - flushed > 1000;
    rows.insertAdjacentHTML("afterbegin", queue.reverse().join(""));
    queue = [];
    waiting = 0;
    for (let i = 0; i < n; i++) {
      localize(rows.children[i]);
      if (published.size) arrived(rows.children[i]);
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
    if (!document.hidden) {
      show("off", "Connecting…");
      connect();
    }
  }

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? "Resume" : "Pause";
    flush();
    if (source?.readyState === EventSource.OPEN) showOpen();
  });
  document.addEventListener("visibilitychange", restart);
  $("live").hidden = false;
  restart();
}
