"use strict";

// Packages of evidence: the video plays in place, the file is for `mpft evidence verify`.

const SOON = 60; // seconds after a verdict within which its package may still come

const packageAt = (name) => `${API}/evidence/${encodeURIComponent(name)}`;

// Shows a package in a dialog; one of so long ago that is not there grew too old.
async function drawEvidence(dialog, name, since) {
  const box = $(".evidence", dialog);
  if (box.dataset.package === name) return;
  const video = $("video", box);
  box.dataset.package = name;
  box.hidden = true;
  video.removeAttribute("src");
  while (name) {
    const answer = await fetch(packageAt(name), { method: "HEAD" }).catch(() => null);
    if (box.dataset.package !== name) return;
    if (answer?.ok) {
      $("a", box).href = packageAt(name);
      video.src = `${packageAt(name)}/clip`;
      box.hidden = video.hidden = false;
    }
    if (answer?.ok || Date.now() > 1000 * (since + SOON)) return;
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

for (const box of $$(".evidence")) {
  $("video", box).addEventListener("error", (event) => { event.target.hidden = true; }); // none, or no codec for it
  const dialog = box.closest("dialog");
  dialog.addEventListener("close", () => drawEvidence(dialog, "", 0));
}

$("#keep").addEventListener("click", async () => {
  const { source } = detailed.status;
  $("#keep").disabled = true;
  try {
    const planned = await call(`/sources/${encodeURIComponent(source)}/evidence`, {}, { method: "POST" });
    await new Promise((resolve) => setTimeout(resolve, 1000 * planned.seconds + 500));
    if (detailed?.status.source === source) await drawEvidence($("#detail"), planned.package, Date.now() / 1000);
  } catch (error) {
    warn(error.message);
  }
  $("#keep").disabled = false;
});
