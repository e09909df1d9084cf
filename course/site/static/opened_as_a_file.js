// A page that was opened from a folder may not fetch others, from which the search takes its excerpts. Without them
// every result would put an error into the browser's console.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
