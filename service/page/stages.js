// The six steps from pixels to probabilities, each with the numbers of this picture.

import { showSum, tableRow, whyNot } from "./arithmetic.js";
import { outline, paintImage, paintMap, ramp } from "./paint.js";
import { seenBy, valueOf } from "./pixels.js";
import { CLASSES, number, percent, range, shape } from "./words.js";

const $ = (id) => document.getElementById(id);
const PIXELS = "pixels";
const POOLED = 128; // numbers of the vector that are drawn, at most

const views = new Map(); // by data-stage: { root, shown, row, column }
let explained = null;
let network = null;
let say = () => {};

/** Prepares the steps; `announce(text)` speaks. */
export function makeSteps(announce) {
  say = announce;
  for (const step of document.querySelectorAll(".step")) {
    const { stage } = step.dataset;
    const numbers = stage === "logits" || stage === "probabilities";
    step.append($(numbers ? "numbers-template" : "step-template").content.cloneNode(true));
    const view = { root: step, shown: 0, row: 14, column: 14, placed: false };
    views.set(stage, view);
    if (numbers) continue;
    const find = (selector) => step.querySelector(selector);
    for (const [selector, name] of [[".row-slider", "row"], [".column-slider", "column"]]) {
      find(selector).addEventListener("input", (event) => {
        view[name] = Number(event.target.value);
        showCell(stage, true);
      });
    }
    find(".sums").addEventListener("toggle", () => showCell(stage));
    if (stage === PIXELS) pointAt(find(".look"), stage);
  }
}

/** Shows the steps of an explained answer, or hides their numbers (null). `model` is its network in /model. */
export function showSteps(answer, model) {
  explained = answer;
  network = model;
  for (const { root } of views.values()) root.querySelector(".live").hidden = !answer;
  if (!answer) return;
  const colours = ramp();
  showMaps(PIXELS, colours);
  answer.stages.forEach((_, index) => showMaps(String(index), colours));
  showLogits();
  showProbabilities();
}

function side() {
  return explained.seen.channels === 3 ? 2 * explained.seen.width : explained.seen.width;
}

function mapOf(stage) {
  if (stage !== PIXELS) return explained.stages[Number(stage)];
  const { width, height } = explained.seen;
  return { width, height, receptive_field: { size: side() / width, stride: side() / width, start: 0 } };
}

function showMaps(stage, colours) {
  const view = views.get(stage);
  const map = mapOf(stage);
  const find = (selector) => view.root.querySelector(selector);
  paintImage(find(".look canvas"), explained.seen);
  if (!view.placed) Object.assign(view, strongest(map), { placed: true });
  for (const [selector, name, count] of [[".row-slider", "row", map.height], [".column-slider", "column", map.width]]) {
    find(selector).max = count - 1;
    view[name] = Math.min(view[name], count - 1);
  }
  if (stage === PIXELS) {
    const { channels } = explained.seen;
    find(".shape").textContent = `Shape: ${shape([channels, side(), side()])}, ${channels === 1 ? "one grey channel" : "red, green and blue, shown at half size"}.`;
  } else {
    const views = explained.views > 1 ? ` The network averages ${explained.views} views of the picture; these maps are of the first.` : "";
    const reduced = map.height < map.shape[1] ? `, shown at ${map.width}×${map.height} cells` : "";
    find(".shape").textContent =
      `Shape: ${shape(map.shape)}, ${map.shape[0]} maps of ${map.shape[2]}×${map.shape[1]} cells${reduced}. Here: ${map.name}, ${map.channels.length} of the maps.${views}`;
    showButtons(stage, view, map, colours);
  }
  showCell(stage);
}

/** The map and the cell with the largest value, or the middle of the picture. */
function strongest({ width, height, data }) {
  const index = data ? data.indexOf(Math.max(...data)) : Math.floor(height / 2) * width + Math.floor(width / 2);
  const cell = index % (width * height);
  return { shown: Math.floor(index / (width * height)), row: Math.floor(cell / width), column: cell % width };
}

function showButtons(stage, view, map, colours) {
  const list = view.root.querySelector(".maps");
  while (list.children.length > map.channels.length) list.lastChild.remove();
  while (list.children.length < map.channels.length) {
    const shown = list.children.length;
    list.append($("map-template").content.cloneNode(true));
    const button = list.lastElementChild.querySelector("button");
    button.addEventListener("click", () => choose(stage, shown));
    pointAt(button, stage, shown);
  }
  view.shown = Math.min(view.shown, map.channels.length - 1);
  [...list.querySelectorAll("button")].forEach((button, shown) => {
    const size = map.width * map.height;
    paintMap(button.firstElementChild, map.data.subarray(shown * size, (shown + 1) * size), map.width, map.height, colours);
    button.setAttribute("aria-label", `Map ${map.channels[shown]}`);
  });
}

function choose(stage, shown) {
  views.get(stage).shown = shown;
  showCell(stage);
}

/** The pointer over a map or picture chooses the cell below it. */
function pointAt(element, stage, shown = 0) {
  const move = (event) => {
    if (!explained) return;
    const { left, top, width, height } = element.querySelector("canvas").getBoundingClientRect();
    const map = mapOf(stage);
    const cell = (position, length, count) => Math.max(0, Math.min(count - 1, Math.floor((position / length) * count)));
    const row = cell(event.clientY - top, height, map.height);
    const column = cell(event.clientX - left, width, map.width);
    const view = views.get(stage);
    if (view.row === row && view.column === column && view.shown === shown) return;
    Object.assign(view, { row, column, shown });
    showCell(stage);
  };
  element.addEventListener("pointermove", move);
  element.addEventListener("pointerdown", move);
}

/** The outline, the value and, for the first layer, the sum of the chosen cell. */
function showCell(stage, spoken = false) {
  if (!explained) return;
  const view = views.get(stage);
  const map = mapOf(stage);
  const { row, column, shown } = view;
  const find = (selector) => view.root.querySelector(selector);
  find(".row-slider").value = row;
  find(".column-slider").value = column;
  find(".row-slider").setAttribute("aria-valuetext", `row ${row}`);
  find(".column-slider").setAttribute("aria-valuetext", `column ${column}`);
  const rows = seenBy(map.receptive_field, row, side());
  const columns = seenBy(map.receptive_field, column, side());
  outline(find(".field"), rows[0] / side(), columns[0] / side(), rows[1] / side(), columns[1] / side());
  Object.assign(find(".field").dataset, { rows: rows.join(), columns: columns.join() });
  view.root.querySelectorAll(".map").forEach((button, index) => button.setAttribute("aria-pressed", String(index === shown)));
  let text;
  if (stage === PIXELS) {
    const { seen } = explained;
    const start = (row * seen.width + column) * seen.channels;
    text = `Row ${row}, column ${column}: ${[...seen.data.subarray(start, start + seen.channels)].join(", ")}.`;
  } else {
    const value = valueOf(map.data[(shown * map.height + row) * map.width + column], map);
    view.root.dataset.value = value;
    text = `Map ${map.channels[shown]}, row ${row}, column ${column}: ${number(value)}. ` +
      `This cell sees the rows ${range(rows)} and the columns ${range(columns)} of the picture.`;
  }
  find(".reading").textContent = text;
  if (spoken) say(text);
  if (stage === "0") showFirstLayer(find, shown, row, column);
}

function showFirstLayer(find, shown, row, column) {
  const why = whyNot(explained, network);
  find(".why").hidden = !why;
  find(".why").textContent = why;
  find(".sums").hidden = Boolean(why);
  if (why) return;
  const agrees = showSum(find("table"), explained, network.first_layer, shown, row, column);
  const padding = network.first_layer.padding
    ? ` Outside the picture the level is ${network.first_layer.mean}, so the scaled level is 0.` : "";
  find("summary").textContent = agrees
    ? "The sum of this cell, pixel by pixel: it equals the map"
    : "The sum of this cell, pixel by pixel: it differs from the map";
  find("caption").textContent += `. The map was sent in 255 steps.${padding}`;
}

function showLogits() {
  const { root } = views.get("logits");
  const { logits, temperature, features } = explained;
  const canvas = root.querySelector(".vector");
  const values = features?.values.slice(0, POOLED);
  canvas.hidden = !values;
  if (values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    paintMap(canvas, Uint8Array.from(values, (value) => (255 * (value - low)) / (high - low || 1)), values.length, 1, ramp());
    canvas.setAttribute("aria-label", `${features.name}, from ${number(low)} to ${number(high)}`);
  }
  root.querySelector(".shape").textContent = values
    ? `Shape: ${values.length} numbers in, 10 logits out. The strip shows ${features.name}; brighter is larger.`
    : "Shape: 10 logits.";
  if (network?.architecture === "Net" && network.arguments.sigmoid !== false) {
    root.querySelector(".shape").append(" This network has a sigmoid behind the sum, so its logits are from 0 to 1.");
  }
  fillTable(root, `Temperature T = ${number(temperature)}`, ["Class", "Logit", "Logit / T"],
    logits.map((logit) => [number(logit), number(logit / temperature)]));
}

function showProbabilities() {
  const { root } = views.get("probabilities");
  const scaled = explained.logits.map((logit) => logit / explained.temperature);
  const highest = Math.max(...scaled);
  const exponentials = scaled.map((value) => Math.exp(value - highest));
  const total = exponentials.reduce((sum, value) => sum + value, 0);
  root.querySelector(".shape").textContent = "Shape: 10 probabilities, which sum to 1.";
  fillTable(root, "The largest logit / T is subtracted first; this changes no probability.",
    ["Class", "exp(logit / T − largest)", "Divided by the sum"],
    exponentials.map((value) => [number(value), percent(value / total)]));
  root.querySelector("tfoot").replaceChildren(tableRow("Sum", [number(total), "100 %"]));
}

function fillTable(root, caption, heads, rows) {
  const table = root.querySelector("table");
  table.caption.textContent = caption;
  table.tHead.rows[0].replaceChildren(...heads.map((text) => {
    const head = document.createElement("th");
    head.scope = "col";
    head.textContent = text;
    return head;
  }));
  table.tBodies[0].replaceChildren(...rows.map((values, index) => tableRow(CLASSES[index], values)));
}
