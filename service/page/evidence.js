// Evidence: each bar is a toggle that lays the map of its class over the picture.

import { paintEvidence, paintImage } from "./paint.js";
import { CLASSES, integer } from "./words.js";

const $ = (id) => document.getElementById(id);
const START = "Press a bar to see which parts of the picture speak for its class.";

/** Paints the picture that the network saw, with the evidence for the class that is chosen (null: none). */
export function showEvidence(explained, chosen) {
  for (const bar of $("bars").querySelectorAll("button")) {
    bar.setAttribute("aria-pressed", String(Number(bar.dataset.class) === chosen));
  }
  const canvas = $("seen");
  canvas.parentElement.hidden = !explained;
  const { seen, evidence } = explained ?? {};
  const shown = chosen !== null && evidence;
  canvas.classList.toggle("evidence", Boolean(shown));
  canvas.dataset.evidence = shown ? chosen : "";
  if (shown) paintEvidence(canvas, seen, evidence, chosen);
  else if (explained) paintImage(canvas, seen);
  $("legend").textContent = legend(explained, chosen);
  if (!explained) return;
  const side = seen.channels === 3 ? 2 * seen.width : seen.width;
  const caption = shown ? `Evidence for ${CLASSES[chosen]}` : "What the network saw";
  $("seen-caption").textContent = `${caption}: ${integer(side)}×${integer(side)} pixels`;
  canvas.setAttribute("aria-label", caption);
}

function legend(explained, chosen) {
  if (chosen === null) return START;
  if (!explained) return "The evidence has not arrived yet.";
  const { evidence } = explained;
  if (!evidence) return "There is no evidence map: it would cost too much with this network.";
  const name = CLASSES[chosen];
  const how = evidence.method === "occlusion"
    ? `Light parts speak for ${name}: its logit falls where they are covered. Dark parts speak against it: its logit rises.`
    : `Light parts raise the logit of ${name}. Dark parts lower it.`;
  return `${how} Grey parts do not matter. Method: ${evidence.method} (${evidence.source}).`;
}
