// The page's state and its wiring.
//
//   inputs.js, camera.js, bench.js  give pictures: { name, blob, url, label?, converted?, edited? }
//   main.js                         sends one of them (`show`), keeps the one state, and calls the views
//   answer.js, evidence.js, stages.js, snippets.js, card.js   are the views; each fills its own elements
//   arithmetic.js, pixels.js, words.js, paint.js, api.js      have no state, but for the API key in api.js
//
// Each picture gets a sequence number, and an answer to an older one is dropped. `state.picture`, `state.answer` and
// `state.explained` always belong together. If a picture gets no answer, the old ones stay and are marked stale.

import { explain, loadModel, predict, Problem, setKey } from "./api.js";
import * as answers from "./answer.js";
import { loadBench, makeBench, showBenchAnswer, showBenchProblem } from "./bench.js";
import { makeCamera } from "./camera.js";
import { showCard } from "./card.js";
import { showEvidence } from "./evidence.js";
import { converted, listen, pictureOf } from "./inputs.js";
import { bmp, equal, fromBase64, fromBase64Url, toBase64Url } from "./pixels.js";
import { showSnippets } from "./snippets.js";
import { makeSteps, showSteps } from "./stages.js";
import { headline, integer } from "./words.js";

const $ = (id) => document.getElementById(id);
const ANNOUNCE_MS = 700; // without a change before something is spoken
const FRAGMENT = "#p=";

const state = {
  sequence: 0,
  controller: new AbortController(),
  picture: null, // that of the answer
  answer: null,
  explained: null, // the answer of /explain, decoded; null while there is only that of /predict
  chosen: null, // class whose evidence is shown
  pinned: null,
  failed: null, // the picture that got no answer
  model: null, // GET /model
  withKey: false,
  gallery: new AbortController(),
};

let announceTimer, retryTimer;
let editing = false, nextPixels = null; // of the editor: whether a request is under way, and what to send next

function announce(text) {
  clearTimeout(announceTimer);
  announceTimer = setTimeout(() => ($("announcer").textContent = text), ANNOUNCE_MS);
}

/** Asks for the prediction, which is fast, then for the explanation. `quiet`: it is one of many changes in the editor. */
async function show(picture, { quiet = false } = {}) {
  const sequence = ++state.sequence;
  state.controller.abort();
  clearTimeout(retryTimer);
  const { signal } = (state.controller = new AbortController());
  const isLate = () => sequence !== state.sequence;
  $("answer").setAttribute("aria-busy", "true");
  let sent = null;
  try {
    const first = await predictOrConvert(picture, signal);
    if (isLate()) return;
    ({ sent } = first);
    accept(sent, first.answer, null, quiet);
    if (quiet && nextPixels) return; // the editor has changed since
    const answer = await explain(sent.blob, signal);
    if (!isLate()) accept(sent, answer, decoded(answer), quiet);
  } catch (error) {
    if (isLate()) return;
    showEvidence(state.explained, state.chosen);
    showSteps(state.explained, networkOf(state.answer?.model));
    if (!sent || ![404, 405].includes(error.status)) refuse(error, picture, quiet, sent);
  } finally {
    if (!isLate()) {
      $("answer").removeAttribute("aria-busy");
      $("steps").dataset.pending = "false";
    }
  }
}

/** A file that the service does not read is converted by the browser, if it can, and sent once more. */
async function predictOrConvert(picture, signal) {
  const limit = state.model?.max_upload_bytes ?? Infinity;
  let refusal;
  if (picture.blob.size <= limit) {
    try {
      return { sent: picture, answer: await predict(picture.blob, signal) };
    } catch (error) {
      if (error.status !== 413 && error.status !== 415) throw error;
      refusal = error;
    }
  } else {
    refusal = new Problem(413, `The file has ${integer(picture.blob.size)} bytes, over the limit of ${integer(limit)}.`);
  }
  const sent = await converted(picture, refusal.message);
  if (sent) return { sent, answer: await predict(sent.blob, signal) };
  if (picture.blob.size <= limit) throw refusal;
  return { sent: picture, answer: await predict(picture.blob, signal) };
}

/** The answer of /explain with its maps as bytes. */
function decoded(answer) {
  const bytes = (map) => map && { ...map, data: fromBase64(map.data) };
  return { ...answer, seen: bytes(answer.seen), stages: answer.stages.map(bytes), evidence: bytes(answer.evidence) };
}

/** Shows an answer. `explained` is null while only the prediction has come: the maps of the picture before are hidden. */
function accept(picture, answer, explained, quiet) {
  if (state.picture !== picture && state.picture?.edited) URL.revokeObjectURL(state.picture.url);
  Object.assign(state, { picture, answer, explained, failed: null });
  clearProblem();
  answers.showAnswer({ picture, answer, seen: explained?.seen, quiet });
  showSnippets(picture, state.withKey);
  for (const button of document.querySelectorAll(".example")) {
    if (button === picture.example) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
  if (picture.edited) showBenchAnswer(answer, explained?.seen);
  $("steps").dataset.pending = String(!explained && !quiet);
  $("seen").classList.toggle("pending", !explained && !quiet);
  if (!explained) {
    if (!quiet) showUnchanged(picture, answer);
    return;
  }
  showEvidence(explained, state.chosen);
  showSteps(explained, networkOf(answer.model));
  const grey = explained.seen.channels === 1;
  if (grey && !picture.edited) {
    loadBench(explained.seen.data);
    showBenchAnswer(answer, explained.seen);
  }
  $("share").hidden = !grey;
  $("share-link").hidden = true;
  $("share-note").textContent = grey ? "" : "A link holds a picture of 28×28 pixels only; this one is larger.";
  const linked = location.hash.startsWith(FRAGMENT) && fromBase64Url(location.hash.slice(FRAGMENT.length));
  if (linked && !(grey && equal(linked, explained.seen.data))) {
    history.replaceState(null, "", location.pathname + location.search);
  }
}

/** A 28×28 picture that reached the network unchanged is what the network saw; so it is shown before the explanation. */
async function showUnchanged(picture, { input }) {
  if (input.adapted.length || input.width !== 28 || input.height !== 28) return;
  const image = await createImageBitmap(picture.blob).catch(() => null);
  if (!image || state.picture !== picture || state.explained) return;
  const canvas = $("seen");
  [canvas.width, canvas.height] = [28, 28];
  canvas.getContext("2d").drawImage(image, 0, 0);
  canvas.classList.remove("pending", "evidence");
  canvas.parentElement.hidden = false;
}

/** The problem in place, in the service's own sentence; the old answer is marked. */
function refuse(problem, picture, quiet, sent) {
  const text = problem instanceof Problem ? problem.message : "The page failed to show this answer.";
  if (!(problem instanceof Problem)) console.error(problem);
  state.failed = picture;
  const named = picture.name && !quiet ? `${picture.name}: ` : "";
  const stale = Boolean(state.answer) && state.picture !== sent;
  $("stale").hidden = !stale;
  $("answer").dataset.stale = stale;
  if (!sent) answers.showStatus(stale ? "No answer to the last picture." : "No answer yet.");
  showProblem(named + text, problem.status);
  if (picture.edited) showBenchProblem(text);
  if (problem.status === 503) {
    $("problem").append(` The page asks again in ${problem.retrySeconds} s.`);
    retryTimer = setTimeout(() => show(picture, { quiet }), 1000 * problem.retrySeconds);
  }
}

function showProblem(text, status = "") {
  $("problem").textContent = text;
  $("problem").dataset.status = status;
  $("key-form").hidden = status !== 401;
  $("again-row").hidden = status !== 0;
  if (status === 401) state.withKey = true;
}

function clearProblem() {
  showProblem("");
  $("stale").hidden = true;
  $("answer").dataset.stale = "false";
}

function networkOf(model) {
  const found = state.model?.networks.find((network) => network.model === model);
  if (!found && state.model) refreshModel(); // after a hot reload
  return found;
}

async function refreshModel() {
  try {
    const model = await loadModel();
    const known = state.model?.networks.map((network) => network.sha256).join();
    state.model = model;
    $("card-note").dataset.problem = "";
    if (known === model.networks.map((network) => network.sha256).join()) return;
    showCard(model.networks);
    if (state.explained) showSteps(state.explained, model.networks.find((network) => network.model === state.answer.model));
  } catch (problem) {
    $("card-note").dataset.problem = problem.message;
    if (problem.status === 401) showProblem(problem.message, 401);
    else if (!state.model) $("card-list").textContent = problem.message;
  }
}

/** One picture is shown in full; of several each gets a prediction, one request at a time. */
async function open(pictures) {
  state.gallery.abort();
  const { signal } = (state.gallery = new AbortController());
  if (pictures.length === 1) {
    answers.closeGallery();
    await show(pictures[0]);
    if (!signal.aborted) $($("problem").textContent ? "problem" : "status").scrollIntoView({ block: "nearest" });
    return;
  }
  const report = answers.makeGallery(pictures, (picture) => show(picture));
  for (const [index, picture] of pictures.entries()) {
    try {
      report(index, headline(await predictPatiently(picture, signal)));
    } catch (problem) {
      if (signal.aborted) return;
      report(index, problem.message);
    }
    if (index === 0) await show(picture);
    if (signal.aborted) return;
  }
}

async function predictPatiently(picture, signal) {
  for (let patience = 5; ; patience--) {
    try {
      return await predict(picture.blob, signal);
    } catch (problem) {
      if (problem.status !== 503 || !patience) throw problem;
      await new Promise((done) => setTimeout(done, 1000 * problem.retrySeconds));
      signal.throwIfAborted();
    }
  }
}

function openFragment() {
  if (!location.hash.startsWith(FRAGMENT)) return;
  const pixels = fromBase64Url(location.hash.slice(FRAGMENT.length));
  if (pixels) show(edited(pixels, "shared.bmp", false));
  else showProblem("The link holds no picture of 28×28 pixels; it may have been cut off.", 400);
}

function edited(pixels, name = "edited.bmp", isEdited = true) {
  return pictureOf(new Blob([bmp(pixels)], { type: "image/bmp" }), name, { edited: isEdited });
}

/** Sends the pixels of the editor, one request at a time; of those that wait only the last is sent. */
async function follow(pixels) {
  nextPixels = pixels;
  if (editing) return;
  editing = true;
  while (nextPixels) {
    const now = nextPixels;
    nextPixels = null;
    await show(edited(now), { quiet: true });
  }
  editing = false;
}

/** Copies, or without a clipboard (plain http) selects the text. Says which. */
async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return "Copied.";
  } catch {
    if (element.select) element.select();
    else getSelection().selectAllChildren(element);
    return "Selected. This browser gives no clipboard here: copy with Ctrl+C.";
  }
}

function wireAnswer() {
  $("bars").addEventListener("click", (event) => {
    const bar = event.target.closest("button");
    if (!bar) return;
    const index = Number(bar.dataset.class);
    state.chosen = state.chosen === index ? null : index;
    showEvidence(state.explained, state.chosen);
    announce($("legend").textContent);
  });
  $("pin").addEventListener("click", () => {
    state.pinned = { picture: state.picture, answer: state.answer, seen: state.explained?.seen };
    answers.showPinned(state.pinned);
    announce("Pinned.");
  });
  $("unpin").addEventListener("click", () => {
    answers.showPinned((state.pinned = null));
    $("pin").focus();
  });
  $("share").addEventListener("click", async () => {
    const link = $("share-link");
    link.value = location.href.split("#")[0] + FRAGMENT + toBase64Url(state.explained.seen.data);
    link.hidden = false;
    $("share-note").textContent = await copy(link.value, link);
    announce($("share-note").textContent);
  });
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", async () => {
      const element = $(button.dataset.copy);
      announce(await copy(element.textContent, element));
    });
  }
  $("key-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    setKey($("key").value);
    $("key").value = "";
    showProblem("");
    await refreshModel();
    if (state.failed) await show(state.failed);
    else showSnippets(state.picture, state.withKey);
  });
  const again = () => (state.failed ? show(state.failed) : clearProblem());
  $("again").addEventListener("click", again);
  addEventListener("online", () => state.failed && again());
}

answers.makeBars($("bars"), "bar-template");
answers.makeBars($("pinned-bars"), "plain-bar-template");
makeSteps(announce);
makeBench(follow, announce);
makeCamera(open);
wireAnswer();
listen(open, (text) => showProblem(text));
showSnippets(null, false);
addEventListener("hashchange", openFragment);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  showSteps(state.explained, networkOf(state.answer?.model));
});
refreshModel();
openFragment();
