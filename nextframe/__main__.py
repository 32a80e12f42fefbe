from nextframe.cli import main

main()
