"""Random mazes in ViZDoom: a map and a look per seed, an explorer that walks it, an engine that films the walk."""
