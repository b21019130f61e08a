// The page: has photos enrolled and compared, shows who is enrolled, the jobs and their results.
// Photos go to the page's server as they are; it decodes, aligns and encrypts them.

import { currentPhoto, takePhotos } from "./photo.js";
import { $, Refused, announce, ask, element, show, smallButton } from "./server.js";

const QUICK = 500, SLOW = 4000; // milliseconds between two looks at the jobs

// -- enrol, verify, identify ----------------------------------------------------------------------

let session = null; // what the server has said of itself
let busy = false;
let people = [];

function enable() {
  const ready = Boolean(currentPhoto()) && !busy;
  $("enrol-button").disabled = !ready;
  for (const id of ["verify-button", "identify-button"]) $(id).disabled = !ready || !people.length;
  $("who").disabled = !people.length;
  $("need-photo").hidden = Boolean(currentPhoto());
}

async function submit(kind, button, name = "") {
  const photo = currentPhoto();
  if (!photo || busy) return;
  const query = new URLSearchParams({ kind, name, ...photo.query });
  const label = button.textContent, focused = document.activeElement;
  busy = true;
  show($("problem"), null);
  button.textContent = "Encrypting…";
  enable();
  try {
    await ask("POST", `api/jobs?${query}`, photo.file);
    announce("The photo is encrypted and sent.");
    if (kind === "enrol") $("name").value = "";
  } catch (error) {
    show($("problem"), error);
  } finally {
    busy = false;
    button.textContent = label;
    enable();
    if (document.activeElement === document.body) focused.focus();
    look();
  }
}

for (const [kind, name] of [["enrol", "name"], ["verify", "who"], ["identify", null]]) {
  $(kind).addEventListener("submit", (event) => {
    event.preventDefault();
    submit(kind, $(`${kind}-button`), name ? $(name).value.trim() : "");
  });
}

// -- who is enrolled ------------------------------------------------------------------------------

async function readPeople() {
  const { templates } = await ask("GET", "api/templates");
  // Drawn again only when it has changed: a button that is being clicked must not be replaced.
  if (JSON.stringify(templates) === JSON.stringify(people)) return enable();
  people = templates;
  $("no-people").hidden = people.length > 0;
  const before = $("who").value;
  $("who").replaceChildren(...people.map(({ name }) => element("option", { value: name }, name)));
  if (people.some(({ name }) => name === before)) $("who").value = before;
  $("people").replaceChildren(...people.map(person));
  enable();
}

function person({ name, created }) {
  const remove = smallButton("Delete", `Delete ${name}`, async () => {
    const question = `Delete the template of ${name}? It can only be made again from a photo.`;
    if (!(await confirmed(question))) return;
    try {
      await ask("DELETE", `api/templates/${encodeURIComponent(name)}`);
      announce(`${name} is deleted.`);
      await readPeople();
      ($("people").querySelector("button") ?? $("name")).focus();
    } catch (error) {
      show($("problem"), error);
    }
  });
  const since = element("div", { className: "quiet" }, new Date(1000 * created).toLocaleString());
  const who = element("div", {}, element("div", {}, name), since);
  return element("li", { className: "row" }, who, remove);
}

function confirmed(text) {
  const dialog = $("confirm");
  $("confirm-text").textContent = text;
  dialog.returnValue = "";
  dialog.showModal();
  $("confirm-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

$("confirm-yes").addEventListener("click", () => $("confirm").close("yes"));
$("confirm-no").addEventListener("click", () => $("confirm").close(""));

// -- jobs -----------------------------------------------------------------------------------------

const shown = new Map(); // id -> {node, state, text}: a job is drawn again only when it has changed
const active = (job) => job.state === "queued" || job.state === "running";

function duration(seconds) {
  if (seconds < 1.5) return "a moment";
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}

function stateText(job) {
  const left = `about ${duration(job.eta)} left`;
  if (job.state === "queued") return `Waiting its turn, ${left}`;
  if (job.state === "running") return `${Math.floor(100 * job.progress)} %, ${left}`;
  return job.state === "done" ? "Done" : "Failed";
}

function scoreTable(job) {
  const rows = job.scores.map(({ name, score, match }) =>
    element("tr", { className: match ? "match" : "" },
      element("th", { scope: "row" }, name), element("td", {}, score.toFixed(4))));
  const more = job.compared - job.scores.length;
  const { threshold } = session;
  const limit = threshold === null ? "no threshold given" : `threshold ${threshold}`;
  const caption = `Cosine, ${limit}${more ? `; ${more} lower ones are not shown` : ""}`;
  return element("table", {}, element("caption", {}, caption), element("tbody", {}, ...rows));
}

function draw(job) {
  const { node } = shown.get(job.id);
  const focused = node.contains(document.activeElement);
  const label = active(job) ? "Cancel" : "Dismiss";
  const button = smallButton(label, `${label}: ${job.title}`, async () => {
    button.disabled = true;
    try {
      await ask("DELETE", `api/jobs/${encodeURIComponent(job.id)}`);
    } catch (error) {
      show($("problem"), error);
      button.disabled = false;
    }
    look();
  });
  const title = element("div", {}, element("div", { className: "job-title" }, job.title),
    element("div", { className: "state" }, stateText(job)));
  node.dataset.state = job.state;
  node.replaceChildren(element("div", { className: "row" }, title, button));
  if (active(job)) {
    const bar = element("progress", { max: 1, value: job.progress });
    bar.setAttribute("aria-label", `Progress: ${job.title}`);
    node.append(bar);
  }
  if (job.decision) {
    const kind = job.scores.some(({ match }) => match) ? "yes" : "no";
    node.append(element("p", { className: `decision ${kind}` }, job.decision));
  }
  if (job.scores.length) node.append(scoreTable(job));
  if (job.error) {
    const place = element("p", { className: "message error" });
    show(place, new Refused(422, job.error));
    node.append(place);
  }
  if (focused) button.focus();
}

async function readJobs() {
  const { jobs } = await ask("GET", "api/jobs");
  const ids = new Set(jobs.map((job) => job.id));
  for (const [id, { node }] of shown) {
    if (ids.has(id)) continue;
    node.remove();
    shown.delete(id);
  }
  let enrolled = false;
  for (const job of jobs) {
    if (!shown.has(job.id)) {
      const node = element("li", { className: "job" });
      $("jobs").prepend(node); // the newest first
      shown.set(job.id, { node, state: "", text: "" });
    }
    const known = shown.get(job.id), text = JSON.stringify(job);
    if (known.text === text) continue;
    if (known.state !== job.state && !active(job)) {
      // One that is seen for the first time may have ended before this look, or before this page.
      if (known.state) announce(`${job.title}: ${job.decision || stateText(job)}`);
      enrolled ||= job.kind === "enrol";
    }
    Object.assign(known, { state: job.state, text });
    draw(job);
  }
  $("no-jobs").hidden = jobs.length > 0;
  if (enrolled) await readPeople();
  return jobs.some(active);
}

// -- start, and go on looking ---------------------------------------------------------------------

let timer = 0;
let looking = false;
let again = false; // asked for while looking

async function start() {
  session = await ask("GET", "api/session");
  $("session").textContent =
    "Photos are encrypted by the program on this computer that serves this page. " +
    `${session.server} gets names and ciphertexts, nothing else. Model: ${session.model}.`;
  await readPeople();
  takePhotos(session, enable);
}

async function look() {
  again = looking;
  if (looking) return;
  looking = true;
  clearTimeout(timer);
  let pause = SLOW;
  try {
    if (!session) await start();
    if (await readJobs()) pause = QUICK;
    show($("connection"), null);
  } catch (error) {
    show($("connection"), error);
    if (error.status === 401) return; // another session's tab: it will not get better
  } finally {
    looking = false;
  }
  timer = setTimeout(look, again ? 0 : pause);
}

$("drop").classList.add("empty");
enable();
look();
