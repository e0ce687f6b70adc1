// The live camera: one frame after another is sent, while the page is visible.

import { predict } from "./api.js";
import { pictureOf } from "./inputs.js";
import { headline } from "./words.js";

const $ = (id) => document.getElementById(id);
const SIDE = 320; // pixels, the longer side of a frame
const QUALITY = 0.85;
const PAUSE_MS = 30; // between two frames, so that others are answered too

let stream = null;

/** `open(pictures)` explains a frame. */
export function makeCamera(open) {
  const possible = Boolean(navigator.mediaDevices?.getUserMedia);
  $("camera-open").hidden = !possible;
  $("camera-reason").hidden = possible;
  $("camera-open").addEventListener("click", start);
  $("camera-close").addEventListener("click", () => {
    stop();
    $("camera-open").focus();
  });
  $("camera-take").addEventListener("click", async () => {
    const blob = await frame();
    stop();
    if (blob) open([pictureOf(blob, "camera.jpg")]);
  });
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stop();
  });
  addEventListener("pagehide", stop);
}

async function start() {
  if (stream) return;
  $("camera").hidden = false;
  $("camera-answer").textContent = "The browser asks for the camera.";
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 640 } } });
  } catch (error) {
    $("camera-answer").textContent = error.name === "NotFoundError"
      ? "No camera was found on this device."
      : "The camera was refused. The settings of the browser for this page allow it again.";
    return;
  }
  $("camera-video").srcObject = stream;
  await $("camera-video").play().catch(() => {});
  follow(stream);
}

async function follow(own) {
  let count = 0;
  while (stream === own) {
    const blob = await frame();
    let wait = PAUSE_MS;
    if (blob) {
      try {
        const answer = await predict(blob);
        if (stream !== own) return;
        $("camera-answer").textContent = headline(answer);
        $("camera").dataset.answers = ++count;
      } catch (problem) {
        $("camera-answer").textContent = problem.message;
        wait = 1000 * (problem.retrySeconds ?? 1);
      }
    }
    await new Promise((done) => setTimeout(done, wait));
  }
}

function frame() {
  const video = $("camera-video");
  if (!video.videoWidth) return Promise.resolve(null);
  const scale = Math.min(1, SIDE / Math.max(video.videoWidth, video.videoHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(video.videoWidth * scale);
  canvas.height = Math.round(video.videoHeight * scale);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  $("camera-video").srcObject = null;
  $("camera").hidden = true;
}
