// The strip of experts: a row a layer, a cell an expert, brighter the more it was chosen.

import { get } from "./api.js";

const canvas = document.getElementById("experts");
const text = document.getElementById("experts-text");

export async function showExperts() {
  let rows = [];
  try {
    rows = Object.values((await get("/v1/expert_use")).expert_use); // layer -> how often each expert was chosen
  } catch { /* without a key, or while the server ends */ }
  canvas.hidden = !rows.length;
  if (!rows.length) {
    text.textContent = "no numbers yet";
    return;
  }
  const context = canvas.getContext("2d");
  const height = canvas.height / rows.length;
  const accent = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = accent;
  rows.forEach((row, y) => {
    const most = Math.max(...row, 1e-9);
    const width = canvas.width / row.length;
    row.forEach((count, x) => {
      context.globalAlpha = 0.06 + 0.94 * (count / most);
      context.fillRect(x * width + 1, y * height + 1, width - 2, Math.max(height - 2, 1));
    });
  });
  context.globalAlpha = 1;
  const total = rows.flat().reduce((sum, count) => sum + count, 0);
  text.textContent = `${rows.length} layers × ${rows[0].length} experts, ${Math.round(total).toLocaleString("en")} choices`;
}
