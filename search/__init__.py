"""The study: settings, sampler, trials, loop, finalists, report."""
