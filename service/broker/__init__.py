"""The engine's side: a Redis or Valkey that keeps each channel's log and pushes what is added."""
