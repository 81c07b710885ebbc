"""What translates the texts of a corpus, one file each; `mmscale list translators`."""
