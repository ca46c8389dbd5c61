// The page: its head, the view that the address names, light and dark.
import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import "./app.css";
import { Text } from "./bits";
import { address, followLinks, go, plain, useKeys, useLocation } from "./lib";
import { Bundle } from "./views/bundle";
import { Compare } from "./views/compare";
import { Decision } from "./views/decision";
import { Episode } from "./views/episode";
import { Episodes } from "./views/episodes";
import { Memories } from "./views/memories";
import { Runs } from "./views/runs";
import { Training } from "./views/training";

const TABS: [string, string][] = [
  ["decision", "Decision"], ["episodes", "Episodes"], ["memories", "Memories"], ["training", "Training"], ["bundle", "Bundle"],
];
const OF: Record<string, string> = { episode: "episodes", compare: "episodes" };

function View({ path, run, query }: { path: string; run: string; query: URLSearchParams }) {
  if (!run) return <Runs />;
  switch (path) {
    case "episodes": return <Episodes run={run} query={query} />;
    case "episode": return <Episode run={run} query={query} />;
    case "compare": return <Compare run={run} query={query} />;
    case "memories": return <Memories run={run} query={query} />;
    case "training": return <Training run={run} query={query} />;
    case "bundle": return <Bundle run={run} />;
    default: return <Decision run={run} />;
  }
}

type Theme = "" | "light" | "dark";
const NEXT: Record<Theme, Theme> = { "": "dark", dark: "light", light: "" };

function App() {
  const { path, query } = useLocation();
  const run = query.get("run") ?? "";
  const tab = OF[path] ?? (path || "decision");
  const [theme, setTheme] = useState((localStorage.getItem("theme") ?? "") as Theme);
  useEffect(() => {
    document.documentElement.dataset["theme"] = theme;
    localStorage.setItem("theme", theme);
  }, [theme]);
  useEffect(() => {
    document.title = run ? `${plain(run)}: ${tab} · DuoMem` : "Runs · DuoMem";
  }, [run, tab]);
  useKeys((key) => {
    const place = run ? Number(key) : 0;
    if (place >= 1 && place <= TABS.length) go(address(`/${TABS[place - 1]![0]}`, { run }));
    else if (key === "0") go("/");
    else return false;
    return true;
  });
  return (
    <>
      <header class="bar">
        <div class="bar-in">
          <a class="brand" href="/"><svg width="26" height="20" viewBox="0 0 26 20" aria-hidden="true"><circle cx="9" cy="10" r="7" class="ring" /><circle cx="17" cy="10" r="7" class="ring two" /></svg>DuoMem</a>
          {run && <span class="where"><Text of={run} /></span>}
          <button type="button" class="theme" onClick={() => setTheme(NEXT[theme])} aria-label={`Colours: ${theme || "as the system has them"}. Change.`}>
            {theme === "dark" ? "Dark" : theme === "light" ? "Light" : "Auto"}
          </button>
        </div>
        {run && (
          <nav class="tabs" aria-label="Views of this run">
            <a href="/" class="back">All runs</a>
            {TABS.map(([name, title]) => <a href={address(`/${name}`, { run })} aria-current={name === tab ? "page" : undefined}>{title}</a>)}
          </nav>
        )}
      </header>
      <main id="main" class="page" tabIndex={-1}><View path={path} run={run} query={query} /></main>
      <footer class="foot">
        <a href="/api">Endpoints</a>
        <span>Keys: <kbd>0</kbd> all runs{run && <>, <kbd>1</kbd>–<kbd>5</kbd> views</>}; in lists and episodes <kbd>↑</kbd> <kbd>↓</kbd></span>
      </footer>
    </>
  );
}

followLinks();
render(<App />, document.getElementById("app")!);
