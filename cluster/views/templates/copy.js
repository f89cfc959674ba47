for (const button of document.querySelectorAll("button.copy")) {
  const text = document.getElementById(button.dataset.of);
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    } catch {
      getSelection().selectAllChildren(text);
    }
  });
}
