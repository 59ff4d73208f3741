// What only the browser can do: its time zone, moving between pages, the stream of alerts, cells of the grid, dialogs.
"use strict";

(() => {
  const PATH = "/console";

  // The pages are made for the reader's clock (client.py: ZONE).
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
  document.cookie = `vigil_zone=${encodeURIComponent(zone)}; Path=${PATH}; SameSite=Strict; Max-Age=31536000`;

  // A key that is no longer good ends the session, wherever it is noticed.
  const fetched = window.fetch.bind(window);
  window.fetch = async (...asked) => {
    const answer = await fetched(...asked);
    if (answer.status === 401 && new URL(answer.url).pathname.startsWith(PATH)) {
      const next = encodeURIComponent(location.pathname + location.search);
      location.assign(`${PATH}/login?why=refused&next=${next}`);
    }
    return answer;
  };

  // As a link of Dash does it: the page changes without being loaded anew.
  const go = (href) => {
    history.pushState({}, "", href);
    window.dispatchEvent(new CustomEvent("_dashprivate_pushstate"));
    window.scrollTo(0, 0);
  };

  const skip = () => window.dash_clientside.no_update;
  const pad = (number) => String(number).padStart(2, "0");

  // ---- filters <-> URL (filters.py: NAMES) -----------------------------------------------------------

  const NAMES = [
    "q", "from", "to", "user_id", "min_amount", "max_amount", "decision", "is_anomaly", "reason", "merchant",
    "location", "payment_method", "model_version", "outcome", "sort",
  ];
  const TIMES = new Set(["from", "to"]);

  const inUtc = (local) => {
    const at = new Date(local);
    return Number.isNaN(at.getTime()) ? "" : at.toISOString().replace(/\.\d+Z$/, "Z");
  };
  const inZone = (utc) => {
    const at = new Date(utc);
    if (Number.isNaN(at.getTime())) return "";
    const day = `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())}`;
    return `${day}T${pad(at.getHours())}:${pad(at.getMinutes())}`;
  };
  const written = (values) => {
    const kept = new URLSearchParams();
    NAMES.forEach((name, at) => {
      const value = String(values[at] ?? "").trim();
      const sent = TIMES.has(name) && value ? inUtc(value) : value;
      if (sent && !(name === "sort" && sent === "-event_time")) kept.set(name, sent);
    });
    const text = kept.toString();
    return text ? `?${text}` : "";
  };

  // ---- alerts ------------------------------------------------------------------------------------------

  const KEPT = 12;
  const GATHER_MS = 1000;
  const AGAIN_MS = 5000;
  let stream = null;
  let gathering = null;
  let again = null;
  let alerts = [];

  const say = (text) => {
    if (document.getElementById("stream-state")) {
      window.dash_clientside.set_props("stream-state", { children: text });
    }
  };
  const leave = () => {
    if (stream) stream.close();
    stream = null;
    clearTimeout(gathering);
    clearTimeout(again);
    gathering = null;
  };
  const show = () => {
    gathering = null;
    if (!document.getElementById("alerts-list")) return leave();
    window.dash_clientside.set_props("alerts", { data: alerts });
  };
  const follow = (shown) => {
    leave();
    alerts = shown || [];
    stream = new EventSource(`${PATH}/stream`);
    stream.addEventListener("open", () => say("Flagged payments appear here as they come."));
    stream.addEventListener("alert", (event) => {
      const found = JSON.parse(event.data);
      const known = alerts.filter((one) => one.decision_id !== found.decision_id);
      alerts = [found, ...known].slice(0, KEPT);
      gathering = gathering || setTimeout(show, GATHER_MS);
    });
    stream.addEventListener("error", () => {
      if (!document.getElementById("alerts-list")) return leave();
      say("The stream of alerts does not answer; trying again.");
      // A refused stream is not asked for again by the browser itself. Its list comes anew before it (live.py: again).
      if (stream.readyState === EventSource.CLOSED) again = setTimeout(comeBack, AGAIN_MS);
    });
  };
  const comeBack = () => {
    if (!document.getElementById("alerts-list")) return leave();
    again = setTimeout(comeBack, 4 * AGAIN_MS); // should nobody answer
    window.dash_clientside.set_props("stream-broke", { data: Date.now() });
  };

  // ---- a dialog: keeps the focus, Escape closes it, and the focus goes back to where it was -------------

  let before = null;
  let sent = false; // what is confirmed moves models, so it is sent once
  const dialog = () => document.getElementById("dialog");
  const close = () => {
    if (!dialog() || dialog().hidden) return;
    dialog().hidden = true;
    if (before && document.contains(before)) before.focus();
  };
  const open = () => {
    before = document.activeElement;
    dialog().hidden = false;
    sent = document.getElementById("confirm").disabled = false;
    const first = dialog().querySelector(".field:not(.unseen) input") || document.getElementById("confirm");
    first.focus();
  };
  // Before Dash hears of it. The second click of a double click may be meant for what the dialog now covers.
  document.addEventListener("click", (event) => {
    const confirm = document.getElementById("confirm");
    if (!confirm || event.target !== confirm) return;
    if (sent || event.detail > 1) return event.stopPropagation();
    sent = true;
    setTimeout(() => (confirm.disabled = true), 0); // disabled at once it would keep this click from Dash as well
  }, true);
  document.addEventListener("keydown", (event) => {
    // A key held down on the button that opens the dialog would press the one in it.
    if (event.repeat && event.key === "Enter" && event.target.closest?.("button")) event.preventDefault();
    if (!dialog() || dialog().hidden) return;
    if (event.key === "Escape") return close();
    if (event.key !== "Tab") return;
    const stops = [...dialog().querySelectorAll("input, button")].filter((one) => one.offsetParent && !one.disabled);
    const at = stops.indexOf(document.activeElement);
    if (event.shiftKey && at <= 0) {
      event.preventDefault();
      stops[stops.length - 1].focus();
    } else if (!event.shiftKey && at === stops.length - 1) {
      event.preventDefault();
      stops[0].focus();
    }
  });

  let opened = false; // the first page leaves the focus where the browser put it

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    vigil: {
      titled(title) {
        if (!title) return skip();
        document.title = title;
        const main = document.getElementById("main");
        if (opened && main) main.focus({ preventScroll: true });
        opened = true;
        return title;
      },
      here(pathname, ids) {
        const path = pathname.replace(/\/$/, "");
        return ids.map(({ page }) => {
          const on = page === PATH ? path === PATH : path === page || path.startsWith(`${page}/`);
          const link = document.querySelector(`.top nav a[href="${page}"]`);
          if (link) on ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
          return on ? "page-link on" : "page-link";
        });
      },
      follow(_, broke, shown) {
        follow(shown);
        return broke ? skip() : "Waiting for the stream of alerts.";
      },
      applied(apply, clear, ...rest) {
        const triggered = window.dash_clientside.callback_context.triggered.filter((one) => one.value);
        const pressed = triggered.map((one) => one.prop_id);
        if (!pressed.length) return skip(); // the form has just appeared
        if (pressed.includes("clear.n_clicks")) return "";
        return written(rest.slice(-NAMES.length));
      },
      filled(search) {
        const given = new URLSearchParams(search || "");
        const first = new Set(["q", "from", "to", "is_anomaly", "reason"]);
        const more = document.getElementById("more-filters");
        if (more && NAMES.some((name) => given.get(name) && !first.has(name))) more.open = true;
        return NAMES.map((name) => {
          const value = given.get(name) || (name === "sort" ? "-event_time" : "");
          return (TIMES.has(name) ? inZone(value) : value) || null;
        });
      },
      pointed(click) {
        if (click) go(click.points[0].customdata);
        return skip();
      },
      remembered(_, author, value) {
        return value || author || "";
      },
      asked(promotes, challenges, rollback, aliases) {
        const pressed = window.dash_clientside.callback_context.triggered[0];
        const none = [skip(), skip(), skip(), skip()];
        if (!pressed || !pressed.value) return none;
        const champion = aliases.champion ? `version ${aliases.champion}` : "no version";
        setTimeout(open, 0);
        if (pressed.prop_id.startsWith("ask-rollback")) {
          return [
            { action: "rollback", from_version: aliases.champion },
            "Roll back?",
            `Version ${aliases.previous} decides again in place of ${champion}. The gate is not asked; the next payments carry it within seconds.`,
            "field unseen",
          ];
        }
        const [action, version] = Object.entries(JSON.parse(pressed.prop_id.split(".n_clicks")[0]))[0];
        if (action === "challenge") {
          return [
            { action, version },
            `Put version ${version} on trial?`,
            `It scores live payments beside the champion (${champion}) and decides nothing.`,
            "field unseen",
          ];
        }
        return [
          { action, version },
          `Promote version ${version}?`,
          `The gate judges it; where it passes, it decides from the next payments on. Now ${champion} decides.`,
          "field",
        ];
      },
      closed() {
        close();
        return "";
      },
    },
  });

  // ---- the grid ----------------------------------------------------------------------------------------

  const make = (...parts) => window.React.createElement(...parts);
  const plain = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#x27;": "'", "&#39;": "'", "&#x2F;": "/" };
  const unescaped = (text) => text.replace(/&(?:amp|lt|gt|quot|#x27|#39|#x2F);/g, (found) => plain[found]);

  // The service marks what matched by <mark> in text escaped for HTML; here it becomes elements, never HTML.
  const marked = (data, field) => {
    const highlight = data.marked && data.marked[field];
    if (!highlight) return data[field].replaceAll("_", " ");
    return highlight
      .split(/(<mark>.*?<\/mark>)/)
      .map((part, at) =>
        part.startsWith("<mark>")
          ? make("mark", { key: at }, unescaped(part.slice(6, -7)))
          : unescaped(part),
      );
  };
  const waiting = () => make("span", { className: "cell-wait" }, "…");

  window.dashAgGridComponentFunctions = Object.assign({}, window.dashAgGridComponentFunctions, {
    VigilTime: ({ data }) =>
      data
        ? make("div", { className: "two" }, make("span", null, data.local), make("small", null, data.utc))
        : waiting(),
    VigilPlace: ({ data }) =>
      data
        ? make(
            "div",
            { className: "two" },
            make("a", { href: data.href, tabIndex: -1, onClick: (event) => event.preventDefault() }, marked(data, "merchant")),
            make("small", null, marked(data, "location"), " · ", marked(data, "payment_method")),
          )
        : null,
    VigilWhy: ({ data }) => (data ? make("div", { className: "clamp", title: data.why }, data.why) : null),
    VigilDecision: ({ data }) =>
      data ? make("span", { className: `badge ${data.decision}` }, data.decision_text) : null,
  });
  window.dashAgGridFunctions = Object.assign({}, window.dashAgGridFunctions, {
    openRow(params) {
      const event = params.event;
      if (!params.data || (event && event.type === "keydown" && event.key !== "Enter")) return;
      if (window.getSelection && String(window.getSelection())) return; // somebody copies text
      if (event && (event.ctrlKey || event.metaKey)) window.open(params.data.href, "_blank");
      else go(params.data.href);
    },
  });
})();
