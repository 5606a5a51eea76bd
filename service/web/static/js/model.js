// One model: deleting it, after a question.

import { del } from "./api.js";
import { ask, showProblem } from "./dialog.js";

const button = document.getElementById("delete");

button?.addEventListener("click", async () => {
  const sure = await ask({
    title: `Delete ${button.dataset.name}?`,
    text: "Its file is removed. Jobs and records that came of it stay. The same file can be uploaded again.",
    action: "Delete the model",
    danger: true,
  });
  if (!sure) return;
  button.disabled = true;
  try {
    await del(`/api/v1/models/${button.dataset.model}`);
    location.assign(button.dataset.after);
  } catch (problem) {
    showProblem(document.getElementById("problem"), problem);
    button.disabled = false;
  }
});
