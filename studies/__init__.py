"""How a search is run, seen and used: study files, storage, the runner, the front, selection and export."""
