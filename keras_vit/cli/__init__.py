"""The command `keras-vit`: one module a subcommand, each over one public function."""
