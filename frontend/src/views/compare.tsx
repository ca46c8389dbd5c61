// Two episodes of one game side by side, aligned at the first step where they differ: the view that explains a distillation.
import { useRef, useState } from "preact/hooks";
import { Arm, Outcome, Problem, Text, Waiting } from "../bits";
import { type S, address, go, useGet, useKeys } from "../lib";
import { type Full, Injected, Prompt, StepBody } from "../steps";

const WHY: Record<string, string> = {
  action: "They act differently", observation: "The same action is answered differently", end: "One of them ends",
};

export function Compare({ run, query }: { run: string; query: URLSearchParams }) {
  const [a, b, other] = [query.get("a") ?? "", query.get("b") ?? "", query.get("other") ?? ""];
  const { data, error } = useGet<S["Comparison"]>("/api/compare", { run, a, b, other });
  const [at, setAt] = useState<number | null>(null);
  const list = useRef<HTMLOListElement>(null);
  const count = Math.max(data?.left.steps.length ?? 0, data?.right.steps.length ?? 0);
  const first = data?.first_difference ?? null;
  const now = at ?? first ?? 0;
  const step = (to: number) => {
    const next = Math.max(0, Math.min(count - 1, to));
    setAt(next);
    list.current?.querySelector(`[data-step="${next}"]`)?.scrollIntoView({ block: "nearest" });
  };
  useKeys((key) => {
    if (key === "ArrowDown" || key === "j") step(now + 1);
    else if (key === "ArrowUp" || key === "k") step(now - 1);
    else if (key === "d" && first !== null) step(first);
    else if (key === "x") go(address("/compare", { run: other || run, a: b, b: a, other: other ? run : "" }));
    else return false;
    return true;
  });
  if (error) return <><h1>Two episodes</h1><Problem words={error} /></>;
  if (!data) return <Waiting for="both episodes" />;
  const { left, right } = data;
  const names: [Full, string][] = [[left, run], [right, other || run]];
  return (
    <>
      <p class="kicker"><a href={address("/episodes", { run })}>Episodes</a> · side by side</p>
      <h1><Text of={left.row.goal || left.row.task} /></h1>
      {!data.same_task && <Problem words={`These are two games. On the right: ${right.row.goal || right.row.task}`} />}
      <p class="lead">
        {first === null ? "Both did and saw the same, step by step." : first === 0 ? `${WHY[data.differs]} at the first step.` : `The first ${first === 1 ? "step is" : `${first} steps are`} the same. ${WHY[data.differs]} at step ${first + 1}.`}
      </p>
      <div class="pair heads">
        {names.map(([full, of]) => (
          <section class="pane" aria-label={`${full.row.arm}: ${full.row.stop}`}>
            <div class="pane-head"><a href={address("/episode", { run: of, ref: full.row.ref })}><Arm name={full.row.arm} seed={full.row.seed} /></a><Outcome stop={full.row.stop} won={full.row.won} /><span class="soft">{full.row.steps} steps</span></div>
            <h2 class="small-head">Injected</h2>
            <Injected full={full} run={of} only={full === left ? data.only_left : data.only_right} />
            <Prompt full={full} />
          </section>
        ))}
      </div>
      <div class="headline"><h2>Steps</h2>
        <div class="stepper" role="group" aria-label="Go through the steps">
          <button type="button" onClick={() => step(now - 1)} disabled={now <= 0} aria-label="Step before">↑</button>
          <span role="status">step {now + 1} of {count}</span>
          <button type="button" onClick={() => step(now + 1)} disabled={now >= count - 1} aria-label="Next step">↓</button>
          {first !== null && <button type="button" onClick={() => step(first)} title="d">First difference</button>}
        </div>
      </div>
      <ol class="steps both" ref={list}>
        {Array.from({ length: count }, (_, index) => (
          <>
            {index === first && <li class="split" id="difference"><span>{WHY[data.differs]} from here on</span></li>}
            <li class={`step row ${index === now ? "now" : ""} ${first !== null && index >= first ? "differs" : "same"}`} data-step={index} aria-current={index === now ? "step" : undefined} onClick={() => index !== now && step(index)}>
              <span class="number" aria-hidden="true">{index + 1}</span>
              <div class="pair">
                {names.map(([full, of]) => {
                  const each = full.steps[index];
                  return (
                    <div class="pane">
                      <p class="pane-arm"><Arm name={full.row.arm} /></p>
                      {each ? <StepBody step={each} run={of} reference={full.row.ref} /> : index === full.steps.length ? <p class="ended"><Outcome stop={full.row.stop} won={full.row.won} /> after {full.steps.length} steps</p> : null}
                    </div>
                  );
                })}
              </div>
            </li>
          </>
        ))}
      </ol>
    </>
  );
}
