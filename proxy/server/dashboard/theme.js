// Before anything is drawn: the colours that were chosen here last. No choice: as the system has them.
"use strict";
(() => {
    try {
        const chosen = localStorage.getItem("tollbridge-theme");
        if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
    } catch {
        // storage is switched off: the system's colours it is
    }
})();
