// Asks how a provider's test stands, until it is done.
const page = document.getElementById("provider-test");
const words = {
    waiting: "Waiting for a worker…",
    late: "No worker has taken this up. Is one running? The page goes on asking.",
    running: "Asking the vendor…",
    forgotten: "This test is not known, or not any more. Start another one.",
    unreachable: "Quiver does not answer. The page goes on asking.",
};
const GIVE_UP_MS = 5 * 60 * 1000;
const began = Date.now();

function show(state, findings) {
    const isOver = state === "done" || state === "forgotten";
    const isGood = state === "done" && findings.every((each) => each.is_ok);
    const icon = document.getElementById("test-icon");
    icon.classList.toggle("animate-spin", !isOver);
    icon.textContent = isOver ? (isGood ? "check_circle" : "error") : "progress_activity";
    const done = isGood ? "The provider answers." : "The provider does not answer as it should.";
    document.getElementById("test-state").textContent = state === "done" ? done : words[state];
    document.getElementById("test-findings").replaceChildren(...findings.map(line));
}

function line(finding) {
    const item = document.getElementById("finding").content.cloneNode(true);
    const icon = item.querySelector("[data-icon]");
    icon.textContent = finding.is_ok ? "check" : "close";
    icon.classList.add(...(finding.is_ok ? ["text-green-700", "dark:text-green-400"] : ["text-red-700", "dark:text-red-400"]));
    item.querySelector("[data-credential]").textContent = finding.credential;
    item.querySelector("[data-detail]").textContent = finding.detail;
    item.querySelector("[data-names]").textContent = finding.names.join(", ");
    return item;
}

let known = [];
async function ask() {
    let state = "unreachable";
    try {
        const answer = await fetch(page.dataset.poll, { headers: { Accept: "application/json" } });
        if (answer.ok) {
            const said = await answer.json();
            state = said.state;
            known = said.findings;
        }
    } catch (error) {
        state = "unreachable";
    }
    show(state, known);
    if (state !== "done" && state !== "forgotten" && Date.now() - began < GIVE_UP_MS) {
        setTimeout(ask, 1000);
    }
}
ask();
