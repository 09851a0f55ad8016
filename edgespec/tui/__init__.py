"""The terminal app. Workers post messages, handlers own the state, widgets show it."""
