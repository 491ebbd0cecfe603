"use strict";

// Pictures with what was looked at drawn on them; fetched one at a time, only where someone looks.

const PICTURE_PERIOD = 2000; // ms between two pictures of a source

const outline = (windows) => windows.map(([r, c, h, w]) => `M${c} ${r}h${w}v${h}h${-w}z`).join("");

// href: of the image; its width and height are those that windows and cells are given in.
function drawScene(svg, picture, withCells) {
  if (!picture) {
    svg.replaceChildren();
    return;
  }
  const { href, width, height, windows, cells } = picture;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const parts = [shape("image", { href, width, height })];
  if (withCells && cells.length) {
    const seen = outline(cells.map(([r, c, side]) => [r, c, side, side]));
    parts.push(shape("path", { class: "unseen", d: `M0 0h${width}v${height}h${-width}z${seen}` }));
  }
  const around = outline(windows);
  if (around) parts.push(shape("path", { class: "shade", d: around }), shape("path", { class: "window", d: around }));
  svg.replaceChildren(...parts);
}

const looksAt = (picture) => (picture && picture.share ? `looks at ${percent(picture.share)}` : "");

async function fetchPicture({ source, node, named }, near) {
  const path = node ? `/nodes/${encodeURIComponent(node)}/picture` : "/picture";
  const picture = await call(path, { source: named ?? source, near: near || "" });
  return picture && { ...picture, href: `data:image/jpeg;base64,${picture.jpeg}` };
}

// Of an event: its snapshot, as large as the frame was; none if it grew too old.
function snapshotOf({ event, snapshot }, small) {
  if (!snapshot || !event.size) return null;
  const [height, width] = event.size;
  const { windows, share } = event.looked_at ?? { windows: [], share: 0 };
  const href = `${API}/snapshots/${encodeURIComponent(snapshot)}${small ? "?small=true" : ""}`;
  return { href, width, height, windows, share, cells: [] };
}

// Whose picture is oldest among those that someone sees, and has a newer one; what is looked at closely goes first.
function nextPicture() {
  const now = performance.now();
  const wanted = [...sources.values()].filter((source) => {
    const { picture_time: time, node } = source.status;
    const silent = node && isBroken(source.status); // nobody would answer
    return time !== null && source.shown !== time && (source.visible || source === detailed)
      && !silent && now - source.fetched >= PICTURE_PERIOD;
  });
  wanted.sort((a, b) => (b === detailed) - (a === detailed) || a.fetched - b.fetched);
  return wanted[0];
}

async function pictureLoop() {
  for (;;) {
    const source = document.hidden ? undefined : nextPicture();
    if (!source) {
      await new Promise((resolve) => setTimeout(resolve, 250));
      continue;
    }
    const time = source.status.picture_time;
    source.fetched = performance.now();
    try {
      const picture = await fetchPicture(source.status, false);
      source.shown = time;
      if (picture) source.picture = picture;
      if (source === detailed) {
        const near = await fetchPicture(source.status, true);
        if (near) source.near = near;
        drawDetailPictures();
      }
      drawTilePicture(source);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}
