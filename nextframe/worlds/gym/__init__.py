"""Any Gymnasium environment as a world: its frames, the actions taken in it, and the recorder of both."""
