// The answer: status, pictures, ten bars, prediction set; the pinned answer and the gallery.

import { paintImage } from "./paint.js";
import * as words from "./words.js";

const $ = (id) => document.getElementById(id);
const SMALL = 64; // pixels; a picture up to that side is enlarged with sharp edges
const QUIET_MS = 700; // a status that follows an editor waits so long for the last change

let statusTimer;

/** Ten bars in class order; `template` is "bar-template" for toggles. */
export function makeBars(list, template) {
  list.replaceChildren(...words.CLASSES.map((name, index) => {
    const item = $(template).content.cloneNode(true);
    item.querySelector(".bar").dataset.class = index;
    item.querySelector(".bar-name").textContent = name;
    return item;
  }));
}

export function showBars(list, probabilities) {
  const best = Math.max(...probabilities);
  list.querySelectorAll(".bar").forEach((bar, index) => {
    bar.querySelector(".fill").style.setProperty("width", `${100 * probabilities[index]}%`);
    bar.querySelector(".bar-value").textContent = words.percent(probabilities[index]);
    bar.classList.toggle("best", probabilities[index] === best);
    bar.dataset.probability = probabilities[index];
    if (bar.tagName === "BUTTON") bar.disabled = false;
  });
}

/** A mark in each bar at the probability of the pinned answer. */
export function markBars(list, probabilities) {
  list.querySelectorAll(".mark").forEach((mark, index) => {
    mark.hidden = !probabilities;
    if (probabilities) mark.style.setProperty("left", `${100 * probabilities[index]}%`);
  });
}

export function probabilitiesOf(answer) {
  return words.CLASSES.map((name) => answer.probabilities[name]);
}

/** The first line. With `quiet` it is spoken, and shown, once after the last of several changes. */
export function showStatus(text, quiet = false) {
  clearTimeout(statusTimer);
  const show = () => {
    if ($("status").textContent !== text) $("status").textContent = text;
  };
  if (quiet) statusTimer = setTimeout(show, QUIET_MS);
  else show();
}

export function showAnswer({ picture, answer, seen, quiet }) {
  const headline = words.headline(answer);
  showStatus(headline, quiet);
  $("status").classList.toggle("unfamiliar", answer.familiar === false);
  showBars($("bars"), probabilitiesOf(answer));
  $("set").textContent = words.predictionSet(answer.prediction_set, answer.familiar);
  $("familiar").textContent = answer.familiarity == null
    ? "This network has no measure of familiarity."
    : `Familiarity ${answer.familiarity.toFixed(2)}, from 0 to 1. A picture with at least 0.5 looks like one of the ten classes.`;
  $("model-name").textContent = answer.model;
  $("views").hidden = $("actions").hidden = false;
  showSent(picture);
  $("sent-caption").textContent = `As sent: ${picture.name}`;
  $("adapted").textContent = words.input(answer.input, seen?.channels === 3 ? 2 * seen.width : 28);
  $("converted").hidden = !picture.converted;
  $("converted").textContent = picture.converted ?? "";
  showTruth(picture, answer);
}

function showSent(picture) {
  const image = $("sent");
  if (image.dataset.url === picture.url) return;
  image.dataset.url = picture.url;
  image.onload = () => {
    image.hidden = false;
    $("sent-missing").hidden = true;
    image.classList.toggle("sharp", image.naturalWidth <= SMALL);
  };
  image.onerror = () => {
    image.hidden = true;
    $("sent-missing").hidden = false;
  };
  image.src = picture.url;
}

function showTruth(picture, answer) {
  const known = picture.label !== undefined;
  $("truth").hidden = !known;
  if (!known) return;
  const right = picture.label === answer.index;
  $("truth").dataset.right = right;
  $("truth").textContent = right
    ? "Right: this is its label in the data set."
    : `Wrong: its label in the data set is ${words.CLASSES[picture.label]}.`;
}

export function showPinned(pinned) {
  $("pinned").hidden = !pinned;
  markBars($("bars"), pinned && probabilitiesOf(pinned.answer));
  if (!pinned) return;
  const canvas = $("pinned-seen");
  canvas.hidden = !pinned.seen;
  if (pinned.seen) paintImage(canvas, pinned.seen);
  $("pinned-text").textContent = `${pinned.picture.name}: ${words.headline(pinned.answer)}`;
  $("pinned-model").textContent = pinned.answer.model;
  showBars($("pinned-bars"), probabilitiesOf(pinned.answer));
}

/** One button for each picture; `open(picture)` shows it in full. Returns a function that shows the result of one. */
export function makeGallery(pictures, open) {
  $("gallery").hidden = false;
  const items = pictures.map((picture) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    const image = document.createElement("img");
    image.alt = "";
    image.src = picture.url;
    image.onerror = () => image.remove();
    const text = document.createElement("span");
    text.textContent = `${picture.name}: waits`;
    button.append(image, text);
    button.onclick = () => open(picture);
    item.append(button);
    return { item, text };
  });
  $("gallery-list").replaceChildren(...items.map(({ item }) => item));
  return (index, text) => {
    items[index].text.textContent = `${pictures[index].name}: ${text}`;
    items[index].item.dataset.done = "true";
  };
}

export function closeGallery() {
  $("gallery").hidden = true;
  $("gallery-list").replaceChildren();
}
