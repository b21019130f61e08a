// The photo: chosen or dropped, shown, and given its five points by mouse, touch or keyboard.

import { $, Refused, announce, element, show } from "./server.js";

const POINTS = [
  "left eye",
  "right eye",
  "nose",
  "left corner of the mouth",
  "right corner of the mouth",
];
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

let session = null; // what the server has said of itself
let changed = () => {}; // called when there is another photo
let photo = null; // the chosen file
let points = []; // {x, y} in pixels of the photo, the centre of the first at (0, 0)
let chosen = 0;
let grabbed = null; // the marker that is pressed: where, and whether it has been moved since
let latest = 0; // of the photos that were chosen, as loading one takes a moment

const picture = $("picture");
const markers = POINTS.map((name, number) => {
  const marker = element("button", { type: "button", className: "marker" },
    element("span", {}, number + 1));
  marker.addEventListener("focus", () => choose(number));
  marker.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 10 : 1;
    if (!(event.key in ARROWS)) return;
    const [dx, dy] = ARROWS[event.key];
    event.preventDefault();
    move(number, points[number].x + step * dx, points[number].y + step * dy);
  });
  // Dragging moves this point; a click sets the chosen one, whichever lies below the pointer.
  marker.addEventListener("mousedown", (event) => event.preventDefault()); // no focus: not chosen
  marker.addEventListener("pointerdown", (event) => {
    const [x, y] = place(event), { clientX, clientY } = event;
    const [dx, dy] = [points[number].x - x, points[number].y - y];
    grabbed = { clientX, clientY, dx, dy, dragged: false };
    marker.setPointerCapture(event.pointerId);
  });
  marker.addEventListener("pointermove", (event) => {
    if (!marker.hasPointerCapture(event.pointerId)) return;
    if (!grabbed.dragged) {
      if (Math.hypot(event.clientX - grabbed.clientX, event.clientY - grabbed.clientY) < 3) return;
      grabbed.dragged = true;
      choose(number);
    }
    const [x, y] = place(event);
    move(number, x + grabbed.dx, y + grabbed.dy);
  });
  marker.addEventListener("click", (event) => {
    if (event.detail > 0 && !grabbed.dragged) setChosen(event); // 0: by the keyboard
  });
  $("markers").append(marker);
  const radio = element("input", { type: "radio", name: "point", value: number });
  radio.addEventListener("change", () => choose(number));
  $("choices").append(element("label", {}, radio, element("span", {}, `${number + 1} ${name}`)));
  return marker;
});
const radios = [...$("choices").querySelectorAll("input")];

function place(event) {
  const box = picture.getBoundingClientRect();
  return [
    ((event.clientX - box.left) / box.width) * picture.naturalWidth - 0.5,
    ((event.clientY - box.top) / box.height) * picture.naturalHeight - 0.5,
  ];
}

function choose(number) {
  chosen = number;
  radios[number].checked = true;
  markers.forEach((marker, k) => marker.classList.toggle("chosen", k === number));
}

function move(number, x, y) {
  const [width, height] = [picture.naturalWidth, picture.naturalHeight];
  x = Math.min(Math.max(x, 0), width - 1);
  y = Math.min(Math.max(y, 0), height - 1);
  points[number] = { x, y };
  markers[number].style.left = `${(100 * (x + 0.5)) / width}%`;
  markers[number].style.top = `${(100 * (y + 0.5)) / height}%`;
  markers[number].setAttribute(
    "aria-label",
    `${POINTS[number]}, ${Math.round(x)} pixels from the left, ${Math.round(y)} from the top`,
  );
}

// A face in the middle: the template, as large as the photo allows with some room around it.
function resetPoints() {
  const [width, height] = [picture.naturalWidth, picture.naturalHeight];
  const side = 0.7 * Math.min(width, height);
  session.template.forEach(([x, y], number) => {
    move(number, width / 2 + side * (x - 0.5), height / 2 + side * (y - 0.5));
  });
  choose(0);
}

async function take(file) {
  if (!file) return;
  show($("problem"), null);
  if (file.size > session.largest_bytes) {
    show($("problem"), new Refused(413, {
      reason: `the photo's file is larger than ${Math.round(session.largest_bytes / 2 ** 20)} MiB`,
      hint: "make it smaller, or cut out the face",
    }));
    return;
  }
  const number = ++latest;
  const image = element("img", { src: URL.createObjectURL(file) });
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(image.src);
    show($("problem"), new Refused(422, {
      reason: "this is no photo that can be read",
      hint: "choose a JPEG, PNG or WebP file that other programs can open",
    }));
    return;
  }
  if (number !== latest) return;
  if (photo) URL.revokeObjectURL(picture.src);
  photo = file;
  picture.src = image.src;
  await picture.decode();
  const [width, height] = [picture.naturalWidth, picture.naturalHeight];
  $("photo-facts").textContent = `${file.name}, ${width} × ${height} pixels`;
  $("stage").style.setProperty("--width", width);
  $("stage").style.setProperty("--ratio", width / height);
  $("stage").classList.toggle("small", Math.max(width, height) < 256);
  $("drop").classList.remove("empty");
  $("editor").hidden = false;
  $("aligned").checked = width === height && [session.side, session.aligned_side].includes(width);
  resetPoints();
  showMode();
  changed();
  announce("The photo is shown. Set the five points, or say that it is aligned.");
}

function showMode() {
  const pointing = !$("aligned").checked;
  $("points").hidden = !pointing;
  $("markers").hidden = !pointing;
  $("stage").classList.toggle("pointing", pointing);
}

function setChosen(event) {
  move(chosen, ...place(event));
  choose((chosen + 1) % POINTS.length);
}

picture.addEventListener("click", (event) => {
  if (!$("aligned").checked) setChosen(event);
});
picture.draggable = false;
$("reset").addEventListener("click", resetPoints);
$("aligned").addEventListener("change", showMode);
$("file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
for (const kind of ["dragover", "dragenter"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
for (const kind of ["dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    if (kind === "drop" || !event.relatedTarget) $("drop").classList.remove("over");
  });
}
document.addEventListener("drop", (event) => session && take(event.dataTransfer.files[0]));

// Lets photos be chosen; `given` is the server's session, `call` is called for each new photo.
export function takePhotos(given, call) {
  [session, changed] = [given, call];
  $("file").disabled = false;
}

// The chosen file, and what is to be asked with it: its points, or nothing if it is aligned.
export function currentPhoto() {
  const five = points.map(({ x, y }) => `${x.toFixed(2)},${y.toFixed(2)}`).join();
  return photo && { file: photo, query: $("aligned").checked ? {} : { points: five } };
}
