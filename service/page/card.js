// The card of each network, from GET /model.

import { integer, number } from "./words.js";

const $ = (id) => document.getElementById(id);
const METRICS = {
  test_accuracy: "Right on the test set",
  accuracy: "Right",
  test_loss: "Cross-entropy on the test set",
  validation_loss: "Cross-entropy on held-out images",
  nll: "Cross-entropy after calibration",
  ece: "Expected calibration error",
};
const SHARES = /accuracy|ece$|coverage|unfamiliar/;

export function showCard(networks) {
  $("card-list").replaceChildren(...networks.map(cardOf));
}

function cardOf(network) {
  const card = $("card-template").content.cloneNode(true);
  const find = (selector) => card.querySelector(selector);
  const [channels, height, width] = network.input;
  find("article").dataset.model = network.model;
  find("h3").textContent = channels === 1 ? `Images of Fashion-MNIST: ${network.model}` : `Photos: ${network.model}`;
  find(".what").textContent =
    `${network.architecture}, ${integer(network.parameters)} parameters, ${integer(network.multiply_adds)} multiply-adds for ` +
    `a picture of ${channels}×${height}×${width} numbers.`;
  find(".limits").append(...network.limits.map((text) => element("li", text)));
  fill(find(".metrics"), network.metrics, (name, value) => SHARES.test(name) && typeof value === "number");
  const { settings, data, ...facts } = network.training ?? {};
  fill(find(".training"), facts);
  fill(find(".settings"), { ...settings, ...data });
  fill(find(".file"), { sha256: network.sha256, temperature: network.temperature, ...network.arguments });
  return card;
}

function fill(list, values, isShare = () => false) {
  for (const [name, value] of Object.entries(values ?? {})) {
    const detail = element("dd", isShare(name, value) ? `${(100 * value).toFixed(2)} %` : text(value));
    detail.dataset.name = name;
    detail.dataset.value = JSON.stringify(value);
    list.append(element("dt", METRICS[name] ?? name.replaceAll("_", " ")), detail);
  }
  if (!list.children.length) list.append(element("dt", "Unknown"), element("dd", "The checkpoint does not say."));
}

function text(value) {
  if (typeof value === "number") return Number.isInteger(value) ? integer(value) : number(value);
  if (Array.isArray(value)) return value.map(text).join(", ") || "none";
  if (value === null) return "none";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "object") return Object.entries(value).map(([name, inner]) => `${name} ${text(inner)}`).join("; ");
  return String(value);
}

function element(name, content) {
  const made = document.createElement(name);
  made.textContent = content;
  return made;
}
