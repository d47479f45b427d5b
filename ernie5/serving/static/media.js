// Media on the page: what is attached, and what comes back.

const SHOWN = 160; // pixels of the longer side that small pictures are enlarged to

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function readFile(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
}

// A file as a part of a message, with how it is shown.
export async function attachment(file) {
  const url = await readFile(file);
  if (file.type.startsWith("audio/")) {
    return { name: file.name, url, kind: "audio", part: { type: "input_audio", input_audio: { data: url.split(",")[1] } } };
  }
  if (file.type.startsWith("video/") || file.type === "image/gif") {
    return { name: file.name, url, kind: "video", part: { type: "video_url", video_url: { url } } };
  }
  if (!file.type.startsWith("image/")) throw new Error(`${file.name} is no picture, film or sound`);
  return { name: file.name, url, kind: "image", part: { type: "image_url", image_url: { url } } };
}

function enlarged(image) {
  const side = Math.max(image.naturalWidth, image.naturalHeight);
  if (!side || side >= SHOWN) return;
  const factor = Math.ceil(SHOWN / side);
  image.width = image.naturalWidth * factor;
  image.height = image.naturalHeight * factor;
  image.classList.add("pixels");
}

// A film as a moving picture has no controls of its own: a still lies over it while it is paused.
function pauseButton(image) {
  const button = element("button", { type: "button", textContent: "Pause", className: "quiet" });
  let still = null;
  button.onclick = () => {
    if (still) {
      still.replaceWith(image);
      still = null;
    } else {
      still = element("canvas", { width: image.width, height: image.height, className: image.className });
      still.setAttribute("aria-label", "paused film");
      const context = still.getContext("2d");
      context.imageSmoothingEnabled = false;
      context.drawImage(image, 0, 0, still.width, still.height);
      image.replaceWith(still);
    }
    button.textContent = still ? "Play" : "Pause";
  };
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) image.addEventListener("load", () => button.click(), { once: true });
  return button;
}

export function picture(url, description, { isFilm = false, canBeSaved = false } = {}) {
  const image = element("img", { alt: description });
  image.addEventListener("load", () => enlarged(image), { once: true });
  image.src = url;
  const figure = element("figure", {}, image);
  const caption = element("figcaption");
  if (isFilm) caption.append(pauseButton(image));
  const ending = url.slice(11, url.indexOf(";"));
  if (canBeSaved) caption.append(element("a", { href: url, download: `ernie5.${ending}`, textContent: "Save" }));
  figure.append(caption);
  return figure;
}

export function sound(url, description) {
  const player = element("audio", { controls: true, src: url });
  player.setAttribute("aria-label", description);
  return element("figure", {}, player);
}

export function shown(attached) {
  if (attached.kind === "audio") return sound(attached.url, attached.name);
  if (attached.url.startsWith("data:video/")) {
    return element("figure", {}, element("video", { src: attached.url, controls: true, height: SHOWN }));
  }
  return picture(attached.url, attached.name, { isFilm: attached.kind === "video" });
}
