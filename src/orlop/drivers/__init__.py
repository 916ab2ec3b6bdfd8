"""Where the content of layers lies. `api` has the contract; `registry` imports a driver on use."""
