// The page: a question with what is attached goes out, the answer comes in.

import { get, key, setKey, stream } from "./api.js";
import { showExperts } from "./experts.js";
import { attachment, element, picture, shown, sound } from "./media.js";
import { openPaper } from "./paper.js";
import { canRecord, toggleRecording } from "./record.js";

const by = (id) => document.getElementById(id);
const KINDS = {
  text: ["in words", ["text"]],
  image: ["as a picture", ["image"]],
  video: ["as a film", ["video"]],
  audio: ["as speech", ["audio"]],
  any: ["as it likes", ["text", "image", "video", "audio"]],
};
const EXAMPLES = {
  text: ["The “for” statement", "3 + 4 ="],
  image: ["Draw a seven.", "image"],
  video: ["A 3 moving left, fast.", "video"],
  audio: ["Say seven.", "audio"],
};
let model = null;
let attached = [];
let history = [];
let running = null;

function tell(problem) {
  by("problem").textContent = problem || "";
  by("problem").hidden = !problem;
}

async function connect() {
  try {
    [model] = (await get("/v1/models")).data;
  } catch (error) {
    by("model").textContent = "not connected";
    tell(`${error.message}`);
    if (!key) openSettings(true);
    return;
  }
  tell("");
  by("model").textContent = model.id;
  const can = new Set(model.output_modalities);
  const kinds = Object.keys(KINDS).filter((kind) => can.has(kind) || (kind === "any" && can.size > 1));
  by("answer-kind").replaceChildren(...kinds.map((kind) => element("option", { value: kind, textContent: KINDS[kind][0] })));
  by("drawing-settings").hidden = !can.has("image");
  by("speech-settings").hidden = !can.has("audio");
  by("size").replaceChildren(...model.sizes.map((size) => element("option", { value: size, textContent: size.replace("x", " × ") })));
  by("max_tokens").max = model.max_completion_tokens;
  by("max_tokens").value = Math.min(by("max_tokens").value, model.max_completion_tokens);
  const takes = new Set(model.input_modalities);
  by("draw").hidden = !takes.has("image");
  by("attach").hidden = takes.size === 1;
  by("record").hidden = !takes.has("audio") || !canRecord;
  by("file").accept = [...takes].filter((kind) => kind !== "text").map((kind) => `${kind}/*`).join(",");
  by("examples").replaceChildren(...Object.keys(EXAMPLES).filter((kind) => can.has(kind)).flatMap((kind) => {
    const texts = kind === "text" ? EXAMPLES.text : [EXAMPLES[kind][0]];
    return texts.map((text) => element("button", { type: "button", textContent: text, onclick: () => {
      by("answer-kind").value = kind;
      by("question").value = text;
      by("ask").requestSubmit();
    } }));
  }));
  showExperts();
}

function showAttached() {
  by("attached").replaceChildren(...attached.map((medium, i) => element("li", {},
    medium.kind === "image" ? element("img", { src: medium.url, alt: "" }) : element("span", { textContent: medium.kind === "audio" ? "♪" : "▶" }),
    element("span", { textContent: medium.name }),
    element("button", { type: "button", textContent: "✕", ariaLabel: `Remove ${medium.name}`, onclick: () => {
      attached.splice(i, 1);
      showAttached();
    } }))));
}

async function attach(files) {
  for (const file of files) {
    try {
      attached.push(await attachment(file));
    } catch (error) {
      tell(error.message);
    }
  }
  showAttached();
}

function turn(role, ...children) {
  by("welcome").hidden = true;
  const box = element("article", { className: `turn ${role}` }, element("span", { className: "who", textContent: role === "user" ? "You" : model.id }), ...children);
  by("answers").append(box);
  box.scrollIntoView({ block: "end" });
  return box;
}

function number(id) {
  return by(id).value === "" ? undefined : Number(by(id).value);
}

function question(content) {
  const kind = by("answer-kind").value || "text";
  const body = {
    model: model.id,
    // A model of documents takes each question as the beginning of one.
    messages: model.chat_template === "chat" ? [...history, { role: "user", content }] : [{ role: "user", content }],
    temperature: number("temperature"), top_p: number("top_p"), max_tokens: number("max_tokens"), seed: number("seed"),
    modalities: KINDS[kind][1].filter((name) => model.output_modalities.includes(name)),
  };
  if (body.modalities.some((name) => name === "image" || name === "video")) {
    body.image = { size: by("size").value, guidance: number("guidance"), num_frames: number("num_frames") };
  }
  if (body.modalities.includes("audio")) body.audio = { format: "wav", max_seconds: number("max_seconds") };
  return body;
}

async function ask(event) {
  event.preventDefault();
  const text = by("question").value.trim();
  if (running || !model || (!text && !attached.length)) return;
  tell("");
  const content = [...attached.map((medium) => medium.part), ...(text ? [{ type: "text", text }] : [])];
  turn("user", element("div", { className: "media" }, ...attached.map(shown)), element("p", { textContent: text }));
  const body = question(content);
  attached = [];
  showAttached();
  by("question").value = "";
  await answer(body, content);
}

async function answer(body, content) {
  const words = element("p", { className: "words" });
  const media = element("div", { className: "media" });
  const facts = element("div", { className: "facts" });
  const box = turn("assistant", words, media, facts);
  const begun = performance.now();
  let first = 0;
  box.classList.add("busy");
  setRunning(new AbortController());
  try {
    for await (const chunk of stream(body, running.signal)) {
      const delta = chunk.choices[0]?.delta ?? {};
      if (!first && (delta.content || delta.images || delta.audio)) first = performance.now();
      if (delta.content) words.append(delta.content);
      for (const drawn of delta.images ?? []) {
        const isFilm = drawn.type === "video_url";
        const description = isFilm ? "film made by the model" : "picture made by the model";
        media.append(picture(drawn[drawn.type].url, description, { isFilm, canBeSaved: true }));
      }
      if (delta.audio) media.append(sound(`data:audio/wav;base64,${delta.audio.data}`, "sound made by the model"));
      if (chunk.usage) facts.textContent = summary(chunk.usage, begun, first);
      box.scrollIntoView({ block: "end" });
    }
    history.push({ role: "user", content }, { role: "assistant", content: words.textContent });
  } catch (error) {
    if (error.name === "AbortError") facts.textContent = "stopped";
    else {
      tell(error.message);
      if (!words.textContent && !media.children.length) box.remove();
    }
  } finally {
    box.classList.remove("busy");
    setRunning(null);
    showExperts();
  }
}

function summary(usage, begun, first) {
  const seconds = (performance.now() - begun) / 1000;
  return `${usage.completion_tokens} ${usage.completion_tokens === 1 ? "token" : "tokens"} in ${seconds.toFixed(2)} s, the first after ${((first - begun) / 1000).toFixed(2)} s · ` +
    `prompt ${usage.prompt_tokens}, ${usage.prompt_tokens_details.cached_tokens} of it from the cache`;
}

function setRunning(controller) {
  running = controller;
  by("send").hidden = Boolean(controller);
  by("stop").hidden = !controller;
  by("answers").setAttribute("aria-busy", String(Boolean(controller)));
}

function openSettings(open) {
  by("settings").hidden = !open;
  by("show-settings").setAttribute("aria-expanded", String(open));
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
  by("theme").setAttribute("aria-pressed", String(theme === "dark"));
  showExperts();
}

by("ask").addEventListener("submit", ask);
by("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    by("ask").requestSubmit();
  }
});
by("stop").onclick = () => running?.abort();
by("attach").onclick = () => by("file").click();
by("file").onchange = () => {
  attach([...by("file").files]);
  by("file").value = "";
};
by("draw").onclick = () => openPaper(model?.sizes[0]?.split("x").map(Number), (url) => {
  attached.push({ name: "drawing", url, kind: "image", part: { type: "image_url", image_url: { url } } });
  showAttached();
  by("question").focus();
});
by("record").onclick = async () => {
  try {
    const file = await toggleRecording();
    by("record").setAttribute("aria-pressed", String(!file));
    if (file) await attach([file]);
  } catch (error) {
    tell(`the microphone: ${error.message}`);
  }
};
by("new-chat").onclick = () => {
  running?.abort();
  history = [];
  by("answers").querySelectorAll(".turn").forEach((box) => box.remove());
  by("welcome").hidden = false;
  tell("");
};
by("show-settings").onclick = () => openSettings(by("settings").hidden);
by("theme").onclick = () => setTheme(
  (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark" ? "light" : "dark");
by("key").value = key;
by("key").onchange = () => {
  setKey(by("key").value.trim());
  connect();
};
document.querySelectorAll('input[type="range"]').forEach((range) => {
  range.oninput = () => { range.previousElementSibling.querySelector("output").value = range.value; };
});
by("ask").addEventListener("dragover", (event) => { event.preventDefault(); by("ask").classList.add("over"); });
by("ask").addEventListener("dragleave", () => by("ask").classList.remove("over"));
by("ask").addEventListener("drop", (event) => {
  event.preventDefault();
  by("ask").classList.remove("over");
  attach([...event.dataTransfer.files]);
});
if (localStorage.getItem("theme")) setTheme(localStorage.getItem("theme"));
connect();
