// The pixel bench: an editor of the 28×28 pixels. It holds them as bytes and never reads its canvas.

import { makeBars, probabilitiesOf, showBars } from "./answer.js";
import { outline, paintImage } from "./paint.js";
import { brightened, dab, equal, line, shifted, SIDE, turned } from "./pixels.js";
import { headline, list } from "./words.js";

const $ = (id) => document.getElementById(id);
const UNDO_STEPS = 50;
const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

let original = new Uint8Array(SIDE * SIDE);
let base = original.slice(); // before `turn` and `gain`
let pixels = original.slice();
let history = [];
let cursor = [SIDE / 2, SIDE / 2];
let last = null; // the pixel below the pen
let changed = () => {};
let say = () => {};

/** `follow(pixels)` is called after each change; `announce(text)` speaks. */
export function makeBench(follow, announce) {
  changed = follow;
  say = announce;
  makeBars($("bench-bars"), "plain-bar-template");
  const canvas = $("bench-canvas");
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    remember();
    bake();
    last = cellOf(event);
    draw(last, last);
  });
  canvas.addEventListener("pointermove", (event) => {
    cursor = cellOf(event);
    showCursor();
    if (!last) return;
    for (const point of event.getCoalescedEvents?.() ?? []) stroke(cellOf(point));
    stroke(cursor);
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => (last = null));
  canvas.addEventListener("pointerleave", () => {
    if (document.activeElement !== canvas) $("bench-cursor").hidden = true;
  });
  canvas.addEventListener("focus", showCursor);
  canvas.addEventListener("blur", () => ($("bench-cursor").hidden = true));
  canvas.addEventListener("keydown", pressKey);
  for (const button of document.querySelectorAll("[data-shift]")) {
    button.addEventListener("click", () => {
      remember();
      bake();
      const [right, down] = button.dataset.shift.split(",").map(Number);
      base = shifted(base, right, down);
      update();
    });
  }
  for (const slider of [$("bench-turn"), $("bench-gain")]) {
    slider.addEventListener("input", update);
    slider.addEventListener("pointerdown", remember);
    slider.addEventListener("keydown", remember);
  }
  $("bench-undo").addEventListener("click", () => {
    const step = history.pop();
    if (!step) return say("There is nothing to undo.");
    ({ base } = step);
    $("bench-turn").value = step.turn;
    $("bench-gain").value = step.gain;
    update();
  });
  $("bench-reset").addEventListener("click", () => replace(original));
  $("bench-clear").addEventListener("click", () => replace(new Uint8Array(SIDE * SIDE)));
  show();
}

/** Takes the pixels of a new picture, unless they are those of the editor. */
export function loadBench(found) {
  if (equal(found, pixels)) return;
  original = found.slice();
  history = [];
  set(found);
  show();
}

/** The answer to the pixels of the editor and, once the service has sent them (`seen`), whether it saw the same. */
export function showBenchAnswer(answer, seen) {
  $("bench-answer").textContent = headline(answer);
  showBars($("bench-bars"), probabilitiesOf(answer));
  const same = seen ? equal(seen.data, pixels) : null;
  $("bench-seen").dataset.equal = same ?? "unknown";
  if (same) $("bench-seen").textContent = "The network saw exactly these 784 bytes.";
  else if (answer.input.adapted.length) {
    $("bench-seen").textContent = "The network saw other pixels: three corners are bright, so the service does not take this " +
      `for an image of Fashion-MNIST. It was ${list(answer.input.adapted)}.`;
  } else if (seen) $("bench-seen").textContent = "The answer belongs to pixels that have changed since.";
}

/** Why there is no answer to the pixels of the editor. */
export function showBenchProblem(text) {
  $("bench-answer").textContent = "No answer.";
  $("bench-seen").textContent = text;
}

function replace(found) {
  remember();
  set(found);
  update();
}

function set(found) {
  base = found.slice();
  $("bench-turn").value = 0;
  $("bench-gain").value = 1;
  pixels = base.slice();
}

function remember() {
  history.push({ base: base.slice(), turn: $("bench-turn").value, gain: $("bench-gain").value });
  if (history.length > UNDO_STEPS) history.shift();
}

/** Turn and brightness become part of the pixels, so that what follows applies to what is shown. */
function bake() {
  set(pixels);
}

function update() {
  const [turn, gain] = [Number($("bench-turn").value), Number($("bench-gain").value)];
  pixels = turned(base, turn);
  if (gain !== 1) pixels = brightened(pixels, gain);
  show();
  changed(pixels.slice());
}

function show() {
  const [turn, gain] = [$("bench-turn"), $("bench-gain")];
  turn.setAttribute("aria-valuetext", `${turn.value} degrees`);
  gain.setAttribute("aria-valuetext", `${gain.value} times as bright`);
  paintImage($("bench-canvas"), { channels: 1, width: SIDE, height: SIDE, data: pixels });
}

function stroke(cell) {
  draw(last, cell);
  last = cell;
}

function draw(from, to) {
  const level = document.querySelector("[name=tool]:checked").value === "draw" ? 255 : 0;
  for (const [row, column] of line(from, to)) dab(base, row, column, Number($("bench-size").value), level);
  update();
}

function cellOf(event) {
  const { left, top, width, height } = $("bench-canvas").getBoundingClientRect();
  const cell = (position, length) => Math.max(0, Math.min(SIDE - 1, Math.floor((position / length) * SIDE)));
  return [cell(event.clientY - top, height), cell(event.clientX - left, width)];
}

function pressKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (MOVES[event.key]) {
    cursor = cursor.map((value, axis) => Math.max(0, Math.min(SIDE - 1, value + MOVES[event.key][axis])));
    showCursor();
    say($("bench-place").textContent);
  } else if (event.key === " " || event.key === "Enter") {
    remember();
    bake();
    draw(cursor, cursor);
    showCursor();
  } else return;
  event.preventDefault();
}

function showCursor() {
  const [row, column] = cursor;
  const size = Number($("bench-size").value);
  const before = Math.floor((size - 1) / 2);
  const edge = (value) => Math.max(0, Math.min(SIDE, value)) / SIDE;
  outline($("bench-cursor"), edge(row - before), edge(column - before), edge(row - before + size), edge(column - before + size));
  $("bench-place").textContent = `Row ${row}, column ${column}: ${pixels[row * SIDE + column]}`;
}
