"""Makes the bundled 1:1000 model and its speech; development only, nothing of the product imports it."""
