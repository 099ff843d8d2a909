"""The page with many jobs, as a browser has it."""

import time

import browser
from bench import Bench
from figures import Figures, median
from load import in_parallel
from node import Api, Node

JOBS = 10_000
# Of ten jobs; the others wait.
ENDED = 8
SUBMITTERS = 8
ROUNDS = 15
GOAL_MS = 100
# While much happens the page is drawn anew once a second only: each change is to come after some quiet.
PAUSE_S = 1.3

# Milliseconds until all is loaded, and of these from the request to the end of its answer.
LOADED = """
const [load] = performance.getEntriesByType("navigation");
return load.loadEventEnd ? [load.duration, load.responseEnd - load.requestStart] : null;
"""
# Hands over a job, and waits until the list shows it. Gives the milliseconds from the answer, which says that the job is
# safe, until the row is there and drawn.
UPDATED = """
return (async (name) => {
  const body = JSON.stringify({command: ["true"], name, disk: "32M"});
  const shown = new Promise((resolve) => {
    const look = () => {
      if (!document.querySelector("tbody tr")?.textContent.includes(name)) return;
      observer.disconnect();
      requestAnimationFrame(() => resolve(performance.now()));
    };
    const observer = new MutationObserver(look);
    observer.observe(document.body, {childList: true, subtree: true});
  });
  const headers = {"content-type": "application/json", "x-workrs-csrf": window.workrs.csrf()};
  const answer = await fetch("/api/v1/jobs", {method: "POST", body, headers});
  if (answer.status !== 201) throw new Error(await answer.text());
  const acknowledged = performance.now();
  return Math.max(0, await shown - acknowledged);
})(arguments[0]);
"""


def measure(bench: Bench) -> None:
    if reason := browser.missing():
        raise RuntimeError(reason)
    print(f"\nThe list of {JOBS:,} jobs in a browser")
    node = Node(bench.workrs, bench.clean_up, "512M", "--role", "none", "--rate-limit", "off")
    node.start()
    window = browser.Browser(bench.clean_up)
    home = f"http://{node.address}/"
    bare = [load(window, f"{home}healthz")[0] for _ in range(ROUNDS)]
    empty = [load(window, home)[0] for _ in range(ROUNDS)]
    fill(node)
    window.go(home)
    foot = window.run("return document.querySelector('.foot').textContent")
    if not "".join(filter(str.isdigit, foot)).endswith(str(JOBS)):
        raise RuntimeError(f"the page does not show all jobs: {foot}")
    loads, answers = measure_loads(window, home, node.api())
    updates = measure_updates(window, home)
    window.stop()
    node.remove()
    show(bench.figures, loads, answers, updates)
    figures = bench.figures
    figures.show("a few letters of plain text in the same browser", bare)
    figures.show("the list without any job", empty)
    figures.ratio(f"page load with {JOBS:,} jobs, after a change / without any", loads["after a change"], empty)


def measure_loads(window: browser.Browser, home: str, api: Api) -> tuple[dict[str, list[float]], list[float]]:
    """Gives page loads, and the node's part of those after a change."""
    loads: dict[str, list[float]] = {"after a change": [], "as it was": [], "searched": []}
    answers = []
    for turn in range(ROUNDS):
        # Not from a page that draws the change itself meanwhile.
        load(window, f"{home}healthz")
        api.submit(command=["true"], name=f"change {turn}", disk="32M")
        all_of_it, answer = load(window, home)
        answers.append(answer)
        loads["after a change"].append(all_of_it)
        loads["as it was"].append(load(window, home)[0])
        loads["searched"].append(load(window, f"{home}?q=sweep+{turn}")[0])
    return loads, answers


def measure_updates(window: browser.Browser, home: str) -> list[float]:
    updates = []
    window.go(home)
    for turn in range(ROUNDS):
        time.sleep(PAUSE_S)
        updates.append(window.run(UPDATED, f"update {turn}"))
    return updates


def show(figures: Figures, loads: dict[str, list[float]], answers: list[float], updates: list[float]) -> None:
    for name, values in loads.items():
        figures.show(f"page load, {name}", values)
    figures.show("  of it after a change, request to end of the answer", answers)
    figures.show("from the answer to a submit until its row is shown", updates)
    judged = {f"page load, {name},": values for name, values in loads.items()} | {"update": updates}
    for name, values in judged.items():
        middle = median(values)
        text = f"{name} with {JOBS:,} jobs: under {GOAL_MS} ms, measured {middle:.0f} (slowest {max(values):.0f})"
        figures.goal(text, middle < GOAL_MS)


def fill(node: Node) -> None:
    began = time.monotonic()
    failures: list[str] = []

    def submit(first: int) -> None:
        try:
            api = Api(node.address)
            for number in range(first, JOBS, SUBMITTERS):
                job = api.submit(command=["true"], name=f"sweep {number}", disk="32M")
                if number % 10 < ENDED:
                    api.call("POST", f"/api/v1/jobs/{job['id']}/cancel")
        except (RuntimeError, OSError) as error:
            failures.append(str(error))

    in_parallel([lambda first=first: submit(first) for first in range(SUBMITTERS)])
    if failures:
        raise RuntimeError(failures[0])
    ended = JOBS * ENDED // 10
    print(f"  handed over within {time.monotonic() - began:.0f} s; {ended:,} have ended, {JOBS - ended:,} wait")


def load(window: browser.Browser, url: str) -> tuple[float, float]:
    window.go(url)
    while (took := window.run(LOADED)) is None:
        time.sleep(0.01)
    return tuple(took)
