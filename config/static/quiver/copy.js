// Copies the text of the element that a button names.
for (const button of document.querySelectorAll("button[data-copies]")) {
    button.addEventListener("click", async () => {
        const shown = document.getElementById(button.dataset.copies);
        try {
            await navigator.clipboard.writeText(shown.textContent);
            button.textContent = "Copied";
        } catch (error) {
            // Without https there is no clipboard: select it, so that a key press copies it.
            getSelection().selectAllChildren(shown);
            button.textContent = "Selected";
        }
    });
}
