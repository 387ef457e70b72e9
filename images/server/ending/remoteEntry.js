// JupyterLab extension (4.0 and newer): tells of this server's end as the hub's pages do.
// It is a module-federation container of one module, by hand. It takes no shared module: the
// application's own commands for notifications are all it needs, and without them it says nothing.
(() => {
  const MINUTE = 60_000;
  const NOTIFY = "apputils:notify";
  const UPDATE = "apputils:update-notification";
  const DISMISS = "apputils:dismiss-notification";
  const KEEP = "ds01:keep";

  const activate = ({ commands, restored, serviceManager }) => {
    const url = `${serviceManager.serverSettings.baseUrl}ds01/ending`;
    let shown = null; // the end that was told of last, and its notification
    let last = restored; // one thing after the other

    const show = async (ending) => {
      const told = ending && {
        message: ending.message,
        type: "warning",
        options: {
          autoClose: false,
          actions: ending.keep_h
            ? [{ label: `Keep it for ${ending.keep_h} h`, commandId: KEEP }]
            : [],
        },
      };
      if (shown && shown.at === ending?.at) {
        await commands.execute(UPDATE, { id: shown.id, ...told }); // closed, it stays closed
        return;
      }
      if (shown) {
        await commands.execute(DISMISS, { id: shown.id });
      }
      shown = told && { at: ending.at, id: await commands.execute(NOTIFY, told) };
    };

    const ask = async (method) => {
      const xsrf = document.cookie.match(/\b_xsrf=([^;]*)/);
      const headers = xsrf ? { "X-XSRFToken": xsrf[1] } : {};
      const answer = await fetch(url, { method, headers });
      const told = await answer.json();
      if (answer.ok) {
        await show(told.ending);
      } else if (method === "POST") {
        await commands.execute(NOTIFY, { message: told.message, type: "error", options: { autoClose: false } });
      }
    };

    const soon = (method) => {
      last = last.then(() => ask(method)).catch(() => {}); // the next minute asks again
    };
    // To ask counts as use, as far as the proxy knows: only while somebody can read the answer.
    const look = () => document.hidden || soon("GET");

    commands.addCommand(KEEP, { execute: () => soon("POST") });
    document.addEventListener("visibilitychange", look);
    setInterval(look, MINUTE);
    look();
  };

  const plugin = {
    id: "ds01-ending:plugin",
    description: "Tells when this server ends.",
    autoStart: true,
    activate,
  };
  (globalThis._JUPYTERLAB ??= {})["ds01-ending"] = {
    init: async () => {},
    get: async () => () => ({ __esModule: true, default: plugin }),
  };
})();
