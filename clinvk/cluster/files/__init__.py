"""Files of tasks on other machines: by git, or in a directory that all machines share."""
