"""Does a stage fit, how fast is it, what does it cost: answered from config.json files and a cluster's description."""
