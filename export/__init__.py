"""What needs torch, transformers or optimum: for the `export` extra, and no part of the installed package."""
