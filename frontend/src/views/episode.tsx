// One episode: what was injected, then step by step. An episode that is being played is asked for again until it ends.
import { useEffect, useRef, useState } from "preact/hooks";
import { Arm, Fact, Outcome, Problem, Text, Waiting } from "../bits";
import { type S, address, go, percent, seconds, useGet, useKeys, whole, words } from "../lib";
import { Injected, Prompt, StepBody } from "../steps";

export function Episode({ run, query }: { run: string; query: URLSearchParams }) {
  const ref = query.get("ref") ?? "";
  const { data, error, again } = useGet<S["EpisodeFull"]>("/api/episode", { run, ref });
  const [at, setAt] = useState(Number(query.get("step") ?? 0));
  const list = useRef<HTMLOListElement>(null);
  const last = (data?.steps.length ?? 1) - 1;
  const step = (to: number) => {
    const next = Math.max(0, Math.min(last, to));
    setAt(next);
    history.replaceState(null, "", address("/episode", { run, ref, step: next || null }));
    const node = list.current?.children[next];
    node?.scrollIntoView({ block: "nearest" });
  };
  useKeys((key) => {
    if (key === "ArrowDown" || key === "j") step(at + 1);
    else if (key === "ArrowUp" || key === "k") step(at - 1);
    else if (key === "Home") step(0);
    else if (key === "End") step(last);
    else return false;
    return true;
  });
  useEffect(() => setAt(Number(new URLSearchParams(location.search).get("step") ?? 0)), [ref]);
  const playing = data && !data.row.stop;
  useEffect(() => {
    if (!playing) return;
    const timer = setInterval(again, 1000);
    return () => clearInterval(timer);
  }, [playing]);
  if (error) return <><h1>Episode</h1><Problem words={error} /></>;
  if (!data) return <Waiting for="the episode" />;
  const { row } = data;
  return (
    <>
      <p class="kicker"><a href={address("/episodes", { run, arm: row.arm })}>Episodes</a> · <Text of={row.task} /></p>
      <h1><Text of={row.goal || row.task} /></h1>
      <div class="episode-head">
        <Outcome stop={row.stop} won={row.won} /><Arm name={row.arm} seed={row.seed} />
        <dl class="facts">
          <Fact name="stopped by">{row.stop ? words(row.stop) : "still playing"}</Fact>
          <Fact name="steps">{row.steps}{row.invalid > 0 && <span class="soft"> ({row.invalid} without effect)</span>}</Fact>
          <Fact name="prompt tokens">{whole(row.usage.prompt!)}</Fact>
          <Fact name="from the cache">{percent(row.usage.prompt ? row.usage.cached! / row.usage.prompt : 0)}</Fact>
          <Fact name="said">{whole(row.usage.completion!)}</Fact>
          <Fact name="time">{seconds(row.seconds)}</Fact>
          {row.kind && <Fact name="task type">{words(row.kind)}</Fact>}
          {data.model && <Fact name="model"><Text of={data.model} /></Fact>}
        </dl>
      </div>
      {row.error && <Problem words={row.error} />}
      <Beside run={run} full={data} />
      <section><h2>What was injected</h2><Injected full={data} run={run} /><Prompt full={data} /></section>
      <section>
        <div class="headline"><h2>Steps</h2>
          <div class="stepper" role="group" aria-label="Go through the steps">
            <button type="button" onClick={() => step(at - 1)} disabled={at <= 0} aria-label="Step before">↑</button>
            <span role="status">{data.steps.length ? `step ${Math.min(at, last) + 1} of ${data.steps.length}` : "no step yet"}</span>
            <button type="button" onClick={() => step(at + 1)} disabled={at >= last} aria-label="Next step">↓</button>
          </div>
        </div>
        <p class="scene"><span class="tag">scene</span><Text of={data.scene} /></p>
        <ol class="steps" ref={list}>
          {data.steps.map((each, index) => (
            <li class={index === at ? "step now" : "step"} aria-current={index === at ? "step" : undefined} onClick={() => index !== at && step(index)}>
              <span class="number" aria-hidden="true">{index + 1}</span>
              <div><StepBody step={each} run={run} reference={row.ref} /></div>
            </li>
          ))}
        </ol>
      </section>
    </>
  );
}

/** The same game in the other arms: each opens beside this episode. */
function Beside({ run, full }: { run: string; full: S["EpisodeFull"] }) {
  if (!full.beside.length) return null;
  const same = full.beside.filter((each) => each.seed === full.row.seed || full.beside.filter((other) => other.arm === each.arm).length === 1);
  return (
    <nav class="beside" aria-label="The same game in other arms">
      <span class="soft">Beside it:</span>
      {same.map((each) => (
        <button type="button" class="pill" onClick={() => go(address("/compare", { run, a: each.ref, b: full.row.ref }))}>
          <Arm name={each.arm} /> <Outcome stop={each.stop} won={each.won} />
        </button>
      ))}
    </nav>
  );
}
