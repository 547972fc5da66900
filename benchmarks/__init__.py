"""Speed, measured: what a request costs the web worker, and ratios within one run."""
