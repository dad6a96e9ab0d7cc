"""What is written: folders, shards, and the small files that describe a merged model."""
