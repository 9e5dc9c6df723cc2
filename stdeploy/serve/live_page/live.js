// Asks once a second how the sources do, and fetches a picture where there is a new one.

const EACH_MS = 1000;
const SLOWEST_MS = 10000; // between two questions to a server that does not answer

const list = document.getElementById("sources");
const template = document.getElementById("source");
const model = document.getElementById("model");
const trouble = document.getElementById("trouble");
const cards = [];
let pause = EACH_MS;

function cardOf(place) {
  if (!cards[place]) {
    const card = template.content.firstElementChild.cloneNode(true);
    list.append(card);
    cards[place] = { card, shown: null, visible: true };
    seen.observe(card);
  }
  return cards[place];
}

// Pictures of sources that are scrolled out of sight are not fetched.
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const known = cards.find((each) => each.card === entry.target);
    if (known) known.visible = entry.isIntersecting;
  }
});

function bar({ label, score }) {
  const item = document.createElement("li");
  const name = document.createElement("span");
  name.textContent = label;
  const number = document.createElement("span");
  number.className = "score";
  number.textContent = score.toFixed(3);
  const meter = document.createElement("meter");
  meter.value = score;
  meter.setAttribute("aria-hidden", "true");
  item.append(name, number, meter);
  return item;
}

function running({ rule, start_time: start }) {
  const item = document.createElement("li");
  item.textContent = `${rule}, since ${new Date(1000 * start).toLocaleTimeString()}`;
  return item;
}

function counted(count, thing) {
  return `${count} ${thing}${count === 1 ? "" : "s"}`;
}

function lagOf(source) {
  if (source.state === "live" && source.lag_seconds !== null) return `lag ${source.lag_seconds.toFixed(2)} s`;
  if (source.frame_age_seconds !== null) return `last frame ${Math.round(source.frame_age_seconds)} s ago`;
  return "";
}

function show(source, place) {
  const known = cardOf(place);
  const { card } = known;
  const part = (name) => card.querySelector(name);
  card.dataset.state = source.state;
  part("h2").textContent = source.source;
  part(".name").textContent = source.state;
  part(".lag").textContent = lagOf(source);
  part(".note").textContent = source.note;
  part(".counts").textContent =
    `${counted(source.answers, "answer")}, ` +
    `${source.dropped} of ${counted(source.frames, "frame")} dropped, ` +
    `opened again ${counted(source.reconnects, "time")}`;
  part(".events").replaceChildren(...source.events.map(running));
  part(".labels").replaceChildren(...source.predictions.map(bar));
  const image = part("img");
  if (source.picture_time !== null && source.picture_time !== known.shown && known.visible) {
    known.shown = source.picture_time;
    image.src = `v1/sources/${place}/picture.jpg?t=${source.picture_time}`;
    image.alt = `Newest picture of ${source.source}`;
    image.hidden = false;
    part(".none").hidden = true;
  }
}

async function ask() {
  try {
    if (document.hidden) return;
    const answer = await fetch("v1/sources", { cache: "no-store" });
    if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
    const found = await answer.json();
    model.textContent = found.model || "The network is being opened.";
    found.sources.forEach(show);
    trouble.hidden = true;
    pause = EACH_MS;
  } catch (error) {
    trouble.textContent = `The server cannot be asked: ${error.message}. What is shown is old.`;
    trouble.hidden = false;
    pause = Math.min(2 * pause, SLOWEST_MS);
  } finally {
    setTimeout(ask, pause);
  }
}

ask();
