"""What is measured: one module a section, each with TITLE and measure(bench) -> Section."""
