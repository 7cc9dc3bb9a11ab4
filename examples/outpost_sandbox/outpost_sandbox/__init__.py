"""An outpost that puts a sandbox around each agent: the example of the guide «Write an outpost»."""
