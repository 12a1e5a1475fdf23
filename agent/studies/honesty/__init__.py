"""Does honesty pay on tasks, graphs and shards that rules were not chosen on? Audits of each."""
