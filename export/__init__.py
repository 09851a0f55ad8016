"""What needs torch, transformers or optimum: it runs with the `export` extra and is no part of the installed package."""
