"""The server: OpenAI's HTTP interface over the generation engine, and a page to talk to the model. Extra `serve`."""
