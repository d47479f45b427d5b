// The strip of experts: a row a layer, a cell an expert, brighter the more it was chosen.

import { get } from "./api.js";

const canvas = document.getElementById("experts");
const text = document.getElementById("experts-text");

// The first table of numbers among the statistics, whatever it is called.
function table(statistics) {
  for (const value of Object.values(statistics)) {
    if (Array.isArray(value) && Array.isArray(value[0]) && typeof value[0][0] === "number") return value;
  }
  return null;
}

export async function showExperts() {
  let rows = null;
  let statistics = {};
  try {
    statistics = await get("/v1/expert_use");
    rows = table(statistics);
  } catch { /* without a key, or while the server ends: the strip stays as it was */ }
  canvas.hidden = !rows;
  if (!rows) {
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
