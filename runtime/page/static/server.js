// What all parts of the page use: elements, errors in plain words, and asking the page's server.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function smallButton(text, label, act) {
  const button = element("button", { type: "button", className: "plain small" }, text);
  button.setAttribute("aria-label", label);
  button.addEventListener("click", act);
  return button;
}

const fragment = new URLSearchParams(location.hash.slice(1));
if (fragment.has("token")) {
  sessionStorage.setItem("token", fragment.get("token"));
  history.replaceState(null, "", location.pathname);
}
const token = sessionStorage.getItem("token") ?? "";
addEventListener("hashchange", () => location.reload()); // the address of another session

export class Refused extends Error {
  constructor(status, { code, reason, hint }) {
    super(reason);
    Object.assign(this, { status, code, hint });
  }
}

// The answer's JSON body; raises what the server refuses.
export async function ask(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, { method, body, headers: { Authorization: `Bearer ${token}` } });
  } catch {
    throw new Refused(0, {
      code: "no-page-server",
      reason: "The program that serves this page does not answer",
      hint: "start it again with python -m runtime page, and open the address it prints",
    });
  }
  const content = answer.status === 204 ? {} : await answer.json();
  if (!answer.ok) throw new Refused(answer.status, content);
  return content;
}

function sentence(text) {
  return text ? `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}` : "";
}

// Shows an error at a place for them, with its hint; null: hides the place.
export function show(place, error) {
  const [text, hint] = [sentence(error?.message), sentence(error?.hint)];
  place.hidden = !error;
  if (place.textContent === text + hint) return; // what is said already is not said again
  place.replaceChildren(element("span", {}, text));
  if (hint) place.append(element("span", { className: "hint" }, hint));
}

// Says something to those who use a screen reader.
export function announce(text) {
  $("announcer").textContent = text;
}
