// The drawing area: white ink on black, as the digits that the model learned from.

const paper = document.getElementById("paper");
const context = paper.getContext("2d");
const dialog = document.getElementById("canvas-dialog");
const pen = document.getElementById("pen");
let last = null;
let isEmpty = true;
let size = [28, 28];

function clear() {
  context.fillStyle = "#000";
  context.fillRect(0, 0, paper.width, paper.height);
  isEmpty = true;
}

function place(event) {
  const box = paper.getBoundingClientRect();
  return [((event.clientX - box.left) * paper.width) / box.width, ((event.clientY - box.top) * paper.height) / box.height];
}

function line(to) {
  context.strokeStyle = "#fff";
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = Number(pen.value);
  context.beginPath();
  context.moveTo(...(last || to));
  context.lineTo(...to);
  context.stroke();
  last = to;
  isEmpty = false;
}

paper.addEventListener("pointerdown", (event) => {
  paper.setPointerCapture(event.pointerId);
  last = null;
  line(place(event));
});
paper.addEventListener("pointermove", (event) => {
  if (event.buttons) for (const part of event.getCoalescedEvents?.() ?? [event]) line(place(part));
});
document.getElementById("clear").onclick = clear;
document.getElementById("cancel-drawing").onclick = () => dialog.close();

// Halved again and again, so that every point of the drawing counts in the small picture.
function shrunk([width, height]) {
  let source = paper;
  while (source.width > 2 * width) {
    const half = document.createElement("canvas");
    half.width = Math.max(Math.round(source.width / 2), width);
    half.height = Math.max(Math.round(source.height / 2), height);
    half.getContext("2d").drawImage(source, 0, 0, half.width, half.height);
    source = half;
  }
  const small = document.createElement("canvas");
  [small.width, small.height] = [width, height];
  small.getContext("2d").drawImage(source, 0, 0, width, height);
  return small.toDataURL("image/png");
}

// Opens the dialog; `take` is given the drawing as a data URL, of the model's size if that is small.
export function openPaper(modelSize, take) {
  size = modelSize && Math.max(...modelSize) <= 128 ? modelSize : [280, 280];
  paper.width = 280;
  paper.height = Math.round((280 * size[1]) / size[0]);
  clear();
  document.getElementById("take-drawing").onclick = () => {
    dialog.close();
    if (!isEmpty) take(shrunk(size));
  };
  dialog.showModal();
}
